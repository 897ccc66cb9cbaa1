"""The softmax cross-entropy and its gradient."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from cnn_jax.geometry import layout_hint
from cnn_jax.kernels import autodiff
from cnn_jax.kernels.kernel import custom_vjp, kernel
from cnn_jax.kernels.operands import (
    accumulation_dtype,
    align_manual_axes,
    class_indices,
    require_floating,
)


@kernel(autodiff.softmax_cross_entropy)
def softmax_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0
) -> jax.Array:
    """Returns the cross-entropy between the labels and softmax(logits), per example.

    With targets t (smoothed: t = (1 - a) labels + a / classes) and Z = sum_j exp(z_j),

        loss = log Z sum_j t_j - sum_j t_j z_j.

    The derivative of log Z by z_j is the softmax p_j = exp(z_j) / Z, so

        dz = dloss (p sum_j t_j - t),    dlabels = -(1 - a) dloss log p.

    Only the logits and one log Z per example are saved; p is computed again.

    Args:
      logits: `(..., classes)`, floating-point.
      labels: Integers `(...)` in [0, classes), of any width, or probabilities
        `(..., classes)`. An integer outside gives a NaN loss, since a traced value
        cannot raise.
      label_smoothing: a in [0, 1), the weight of the uniform distribution.

    Returns:
      `(...)` in float32, or float64 for float64 logits.

    Raises:
      ValueError: If shapes, dtypes or the smoothing do not fit.

    Source of label smoothing: Szegedy et al., "Rethinking the Inception Architecture
    for Computer Vision", 2016.
    """
    logits = jnp.asarray(logits)
    require_floating("softmax_cross_entropy", logits=logits)
    if logits.ndim < 1 or logits.shape[-1] == 0:
        raise ValueError(
            f"softmax_cross_entropy: got logits {logits.shape}, expected "
            "(..., classes) with at least one class."
        )
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(
            f"softmax_cross_entropy: got label_smoothing {label_smoothing}, expected a "
            "number in [0, 1)."
        )
    is_classes = jnp.issubdtype(jnp.result_type(labels), jnp.integer)
    labels = class_indices(labels) if is_classes else jnp.asarray(labels)
    _require_labels(labels, logits)
    logits, labels = align_manual_axes(logits, labels)
    if is_classes:
        return _from_classes(logits, labels, float(label_smoothing))
    return _from_probabilities(logits, labels, float(label_smoothing))


@functools.partial(custom_vjp, nondiff_argnums=(2,))
def _from_probabilities(logits, labels, smoothing):
    return _loss(logits, _smooth(logits, labels, smoothing))[0]


def _from_probabilities_fwd(logits, labels, smoothing):
    loss, log_z = _loss(logits, _smooth(logits, labels, smoothing))
    return loss, (logits, labels, log_z)


def _from_probabilities_bwd(smoothing, residuals, dloss):
    logits, labels, log_z = residuals
    log_softmax = logits.astype(log_z.dtype) - log_z[..., None]
    targets = _smooth(logits, labels, smoothing)
    dlabels = -(1.0 - smoothing) * dloss[..., None] * log_softmax
    return _logits_grad(logits, log_softmax, targets, dloss), dlabels.astype(
        labels.dtype
    )


_from_probabilities.defvjp(_from_probabilities_fwd, _from_probabilities_bwd)


@functools.partial(custom_vjp, nondiff_argnums=(2,))
def _from_classes(logits, labels, smoothing):
    return _from_classes_fwd(logits, labels, smoothing)[0]


def _from_classes_fwd(logits, labels, smoothing):
    loss, log_z = _loss(logits, _smooth(logits, _one_hot(logits, labels), smoothing))
    is_class = (labels >= 0) & (labels < logits.shape[-1])
    return jnp.where(is_class, loss, jnp.nan), (logits, labels, log_z)


def _from_classes_bwd(smoothing, residuals, dloss):
    logits, labels, log_z = residuals
    log_softmax = logits.astype(log_z.dtype) - log_z[..., None]
    targets = _smooth(logits, _one_hot(logits, labels), smoothing)
    return _logits_grad(logits, log_softmax, targets, dloss), None


_from_classes.defvjp(_from_classes_fwd, _from_classes_bwd)


def _loss(logits, targets):
    """Returns the loss and log Z, both per example."""
    wide = logits.astype(targets.dtype)
    log_z = jax.nn.logsumexp(wide, axis=-1)
    # A class of probability 0 (z = -inf) and target 0 adds nothing to the loss.
    wanted = jnp.where(targets == 0, 0, targets * wide)
    return log_z * jnp.sum(targets, axis=-1) - jnp.sum(wanted, axis=-1), log_z


def _logits_grad(logits, log_softmax, targets, dloss):
    mass = jnp.sum(targets, axis=-1, keepdims=True)
    grad = dloss[..., None] * (jnp.exp(log_softmax) * mass - targets)
    return grad.astype(logits.dtype)


def _one_hot(logits, labels):
    classes = jnp.arange(logits.shape[-1], dtype=labels.dtype)
    classes = classes.reshape((1,) * labels.ndim + (-1,))
    # A comparison, not a scatter: the same sum in the same order on every device.
    return (labels[..., None] == classes).astype(accumulation_dtype(logits.dtype))


def _smooth(logits, labels, smoothing):
    wide = labels.astype(accumulation_dtype(logits.dtype))
    if smoothing == 0.0:
        return wide
    return (1.0 - smoothing) * wide + smoothing / logits.shape[-1]


def _require_labels(labels, logits):
    is_classes = jnp.issubdtype(labels.dtype, jnp.integer)
    expected = logits.shape[:-1] if is_classes else logits.shape
    if not (is_classes or jnp.issubdtype(labels.dtype, jnp.floating)):
        raise ValueError(
            f"softmax_cross_entropy: got {labels.dtype} labels, expected integers "
            f"{logits.shape[:-1]} or floating-point probabilities {logits.shape}."
        )
    if labels.shape != expected:
        without_second = (*logits.shape[:1], *logits.shape[2:])
        hint = ""
        if is_classes and labels.shape == without_second:
            hint = layout_hint(logits.shape, logits.shape[1], "logits")
        raise ValueError(
            f"softmax_cross_entropy: got {labels.dtype} labels {labels.shape}, "
            f"expected {expected}: integers without, probabilities with the class axis"
            f"{hint}."
        )
