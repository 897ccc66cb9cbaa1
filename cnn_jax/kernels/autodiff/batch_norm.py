"""Batch normalisation in plain lax."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.geometry import MaxPool
from cnn_jax.kernels.autodiff.activation import named_like
from cnn_jax.kernels.autodiff.pool import max_pool
from cnn_jax.kernels.autodiff.vectors import along_channels, statistics_dtype


def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    epsilon: float,
    activation: Callable[[jax.Array], jax.Array] | None = None,
    pool: MaxPool | None = None,
    shift: jax.Array | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises each channel by the batch's statistics; see `kernels.batch_norm`.

    As Flax users run it: the variance is E[x^2] - E[x]^2, and 0 where that rounds to
    less, as in `flax.linen.BatchNorm` (`use_fast_variance`).

    Args:
      x: Input `(n, *spatial, c)`.
      scale: `(c,)`.
      bias: `(c,)`.
      epsilon: Added to the variance.
      activation: A kernel or a twin; the twin of its name is applied to the result.
      pool: Max-pooling that is applied last, or None.
      shift: Not used: the statistics do not depend on it.
      axis_name: Mapped axis or axes to average the statistics over.
      axis_index_groups: Groups of indices along that axis.

    Returns:
      The output in x's dtype, and the mean and the biased variance `(c,)` in float32
      (float64 for float64 inputs).
    """

    def average(value):
        value = jnp.mean(value, axis=tuple(range(value.ndim - 1)))
        if axis_name is None:
            return value
        return lax.pmean(value, axis_name, axis_index_groups=axis_index_groups)

    del shift
    wide = x.astype(statistics_dtype(x))
    mean = average(wide)
    var = jnp.maximum(average(jnp.square(wide)) - jnp.square(mean), 0.0)
    y = _normalise(wide, mean, var, scale, bias, epsilon).astype(x.dtype)
    y = _activate(y, activation)
    if pool is not None:
        y = max_pool(y, pool.window, strides=pool.strides, padding=pool.padding)
    return y, mean, var


def batch_norm_inference(
    x: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    epsilon: float,
    activation: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Normalises each channel by given statistics; see `kernels.batch_norm_inference`.

    Args:
      x: Input `(n, *spatial, c)`.
      mean: `(c,)`.
      var: `(c,)`.
      scale: `(c,)`.
      bias: `(c,)`.
      epsilon: Added to the variance.
      activation: As in `batch_norm`.

    Returns:
      The output in x's shape and dtype.
    """
    wide = x.astype(statistics_dtype(x))
    y = _normalise(wide, mean, var, scale, bias, epsilon).astype(x.dtype)
    return _activate(y, activation)


def _normalise(x, mean, var, scale, bias, epsilon):
    mean, var, scale, bias = (
        along_channels(vector.astype(x.dtype), x) for vector in (mean, var, scale, bias)
    )
    return (x - mean) * lax.rsqrt(var + epsilon) * scale + bias


def _activate(y, activation):
    return y if activation is None else named_like(activation)(y)
