"""Group normalisation by each example's own mean and variance, in plain lax.

As Flax users run it: the variance is E[x^2] - E[x]^2, and 0 where that rounds to less
(`use_fast_variance`, the default of `flax.linen.LayerNorm` and `GroupNorm`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.kernels.autodiff.vectors import along_channels, statistics_dtype


def group_norm(
    x: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    *,
    num_groups: int,
    epsilon: float,
) -> jax.Array:
    """Normalises each example's groups of channels; see `kernels.group_norm`.

    Args:
      x: Input `(n, *spatial, c)`.
      scale: `(c,)` or None.
      bias: `(c,)` or None.
      num_groups: Divides c.
      epsilon: Added to the variance.

    Returns:
      The output in x's shape and dtype.
    """
    grouped = x.astype(statistics_dtype(x)).reshape(*x.shape[:-1], num_groups, -1)
    axes = (*range(1, x.ndim - 1), x.ndim)
    y = normalize(grouped, axes, epsilon).reshape(x.shape)
    return scale_and_shift(y, scale, bias).astype(x.dtype)


def normalize(x: jax.Array, axes: int | tuple[int, ...], epsilon: float) -> jax.Array:
    """Subtracts the mean over `axes` and divides by the deviation."""
    mean = jnp.mean(x, axes, keepdims=True)
    square = jnp.mean(jnp.square(x), axes, keepdims=True)
    var = jnp.maximum(square - jnp.square(mean), 0.0)
    return (x - mean) * lax.rsqrt(var + epsilon)


def scale_and_shift(
    y: jax.Array, scale: jax.Array | None, bias: jax.Array | None
) -> jax.Array:
    """Multiplies each channel by `scale` and adds `bias`, where they are not None."""
    if scale is not None:
        y = y * along_channels(scale.astype(y.dtype), y)
    if bias is not None:
        y = y + along_channels(bias.astype(y.dtype), y)
    return y
