"""Computes what both forms of batch normalisation share, from vectors of channels.

Both passes are affine in x, channel by channel, and an activation may follow. The
functions here are shared by `batch_norm` and `batch_norm_pool`, and are differentiated
by JAX alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.kernels.activation.fused import FUSED
from cnn_jax.kernels.operands import widen
from cnn_jax.kernels.platforms.statistics import AxisName, Groups, mean_over_devices

Activation = Callable[[jax.Array], jax.Array] | None


def subtracted(mean: jax.Array, x: jax.Array, target: str) -> jax.Array | None:
    """Returns the mean if it is to be taken from each entry, None if from sums.

    factor (x - mean) + constant is factor x + (constant - factor mean), with a vector
    and an operation an entry less. That cancels where the mean is large, by roundings
    of 2^-24 of it; half-precision x brings some of 2^-8 or 2^-11 itself.

    Args:
      mean: `(c,)`.
      x: Of the dtype in question.
      target: The platform, as `current_target()` names it.
    """
    is_half = jnp.finfo(x.dtype).bits < 32
    return None if is_half and target == "tpu" else mean


def centred(x: jax.Array, subtracted: jax.Array | None) -> jax.Array:
    """Returns x, in float32 at least, less what is taken from each entry."""
    wide = widen(x)
    return wide if subtracted is None else wide - per_channel(subtracted, x)


def less_mean(
    constant: jax.Array,
    factor: jax.Array,
    mean: jax.Array,
    subtracted: jax.Array | None,
) -> jax.Array:
    """Returns a constant beside factor * x, where that stands for x - mean."""
    return constant - factor * mean if subtracted is None else constant


def affine(centred: jax.Array, gain: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns centred * gain + bias, in the dtype of the first."""
    return centred * per_channel(gain, centred) + per_channel(
        bias.astype(centred.dtype), centred
    )


def activated(
    centred: jax.Array, gain: jax.Array, bias: jax.Array, activation: Activation
) -> jax.Array:
    """Returns what the activation makes of z = centred * gain + bias."""
    z = affine(centred, gain, bias)
    return z if activation is None else FUSED[activation].value(z)


def activated_grad(
    centred: jax.Array,
    gain: jax.Array,
    bias: jax.Array,
    activation: Activation,
    dy: jax.Array,
) -> jax.Array:
    """Returns dz in the wide dtype, from what the forward pass made z from."""
    wide_dy = dy.astype(centred.dtype)
    if activation is None:
        return wide_dy
    return FUSED[activation].pull_back(affine(centred, gain, bias), wide_dy)


def input_terms(
    sums: tuple[jax.Array, jax.Array],
    statistics: tuple[jax.Array, jax.Array],
    r: jax.Array,
    scale: jax.Array,
    count: float,
    dy: jax.Array,
    axis_name: AxisName,
    groups: Groups,
) -> tuple[jax.Array, jax.Array]:
    """Returns (b, c) of dx = r scale dz + b (x - mean) + c: vectors of channels.

    The means are of g = scale dz: each device may have a scale of its own.

    Args:
      sums: dbias and dscale, the sums of dz and of dz xhat over this device's entries.
      statistics: The cotangents of the mean and the variance.
      r: (variance + epsilon)^(-1/2).
      scale: The scale, in r's dtype.
      count: This device's entries of a channel.
      dy: The output's cotangent, which varies over the devices.
      axis_name: As for `batch_norm`.
      groups: Its `axis_index_groups`.
    """
    mean_g, mean_g_xhat = (
        mean_over_devices(scale * total / count, axis_name, groups) for total in sums
    )
    dmean, dvar = (
        _sum_of_shares(cotangent, dy, axis_name, groups) / count
        for cotangent in statistics
    )
    return 2.0 * dvar - jnp.square(r) * mean_g_xhat, dmean - r * mean_g


def per_channel(vector: jax.Array, x: jax.Array) -> jax.Array:
    """Returns a vector of channels as it broadcasts against x."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


def _sum_of_shares(cotangent: Any, dy: Any, axis_name: AxisName, groups: Groups) -> Any:
    """Returns the statistics' cotangent, averaged over the devices that share them.

    Each device holds the same statistics and may have used them differently. Where
    `shard_map` tracks replication, it has summed their cotangents already (dy varies
    over the axis, the statistics do not); elsewhere that sum is formed here. Dividing
    by the number of devices turns a local entry count into the global one.
    """
    if axis_name is None:
        return cotangent
    names = {axis_name} if isinstance(axis_name, str) else set(axis_name)
    size = lax.psum(1, axis_name, axis_index_groups=groups)
    tracked = names <= jax.typeof(dy).manual_axis_type.varying
    if tracked:
        return cotangent / size
    return lax.psum(cotangent, axis_name, axis_index_groups=groups) / size
