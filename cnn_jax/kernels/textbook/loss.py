"""The softmax cross-entropy and its gradients."""

from __future__ import annotations

import numpy as np

from cnn_jax.kernels.textbook.loops import (
    float64,
)


def softmax_cross_entropy(
    logits: np.ndarray, labels: np.ndarray, *, label_smoothing: float = 0.0
) -> np.ndarray:
    """loss[n] = -sum over c of q[n, c] log p[n, c], with p the softmax of the logits.

    q is the label (one-hot if it is an integer), mixed with the uniform distribution:
    (1 - label_smoothing) label + label_smoothing / classes. A class with q = 0 adds
    nothing, not even where its p is 0. An integer that is no class gives NaN.
    """
    logits = float64(logits)
    targets = _targets(labels, logits.shape[-1], label_smoothing)
    terms = np.zeros(logits.shape)
    np.multiply(targets, _log_softmax(logits), out=terms, where=targets != 0)
    return -terms.sum(axis=-1)


def softmax_cross_entropy_grad(
    logits: np.ndarray,
    labels: np.ndarray,
    dloss: np.ndarray,
    *,
    label_smoothing: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (dlogits, dlabels); integer labels have no cotangent: ignore theirs.

    log p[c] = logits[c] - log sum exp(logits), whose derivative by logits[k] is
    [c = k] - p[k], so that

        dlogits[n, k] = dloss[n] (p[n, k] sum_c q[n, c] - q[n, k])
        dlabels[n, c] = -dloss[n] (1 - label_smoothing) log p[n, c].
    """
    logits, dloss = float64(logits, dloss)
    targets = _targets(labels, logits.shape[-1], label_smoothing)
    log_p = _log_softmax(logits)
    weight = targets.sum(axis=-1, keepdims=True)
    dlogits = dloss[..., None] * (np.exp(log_p) * weight - targets)
    return dlogits, -dloss[..., None] * (1.0 - label_smoothing) * log_p


def _targets(labels: np.ndarray, classes: int, label_smoothing: float) -> np.ndarray:
    labels = np.asarray(labels)
    if np.issubdtype(labels.dtype, np.integer):
        is_class = (labels >= 0) & (labels < classes)
        one_hot = labels[..., None] == np.arange(classes)
        labels = np.where(is_class[..., None], one_hot, np.nan)
    return (1.0 - label_smoothing) * float64(labels) + label_smoothing / classes


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
