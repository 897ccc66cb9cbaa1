"""The softmax cross-entropy."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cnn_jax.kernels.autodiff.vectors import statistics_dtype
from cnn_jax.kernels.operands import class_indices


def softmax_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0
) -> jax.Array:
    """Returns the cross-entropy of each example; see `kernels.softmax_cross_entropy`.

    Args:
      logits: `(..., classes)`.
      labels: Integers of shape `(...,)` and any width, or probabilities of logits'
        shape. An integer that is no class gives NaN.
      label_smoothing: The weight of the uniform distribution in the target.

    Returns:
      The loss `(...,)` in float32 (float64 for float64 logits).
    """
    logits = logits.astype(statistics_dtype(logits))
    num_classes = logits.shape[-1]
    if jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        labels = class_indices(labels)
        targets = jax.nn.one_hot(labels, num_classes, dtype=logits.dtype)
        is_class = (labels >= 0) & (labels < num_classes)
        targets = jnp.where(is_class[..., None], targets, jnp.nan)
    else:
        targets = labels.astype(logits.dtype)
    targets = targets * (1.0 - label_smoothing) + label_smoothing / num_classes
    return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)
