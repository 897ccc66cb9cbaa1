"""Layer normalisation by the mean and variance of the last axis, in plain lax."""

from __future__ import annotations

import jax

from cnn_jax.kernels.autodiff.group_norm import normalize, scale_and_shift
from cnn_jax.kernels.autodiff.vectors import statistics_dtype


def layer_norm(
    x: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    *,
    epsilon: float,
) -> jax.Array:
    """Normalises the last axis at every position; see `kernels.layer_norm`.

    Args:
      x: Input `(..., c)`.
      scale: `(c,)` or None.
      bias: `(c,)` or None.
      epsilon: Added to the variance.

    Returns:
      The output in x's shape and dtype.
    """
    y = normalize(x.astype(statistics_dtype(x)), -1, epsilon)
    return scale_and_shift(y, scale, bias).astype(x.dtype)
