r"""Group normalisation and its gradients, derived by hand.

Group norm normalises sets of M entries: one example's, over all positions, in one
group of channels. Layer norm's sets are the channels at one position: the same with one
group and each position an example of its own, so `layer_norm` shares this core. In each
set,

    mu = mean(x),   v = mean((x - mu)^2),   r = (v + eps)^(-1/2),
    xhat = (x - mu) r,   y = scale xhat + bias,

where scale and bias are the channel's. They apply to every entry of their channel:

    dbias = sum dy,   dscale = sum dy xhat,   over all axes but the last.

For x, write g = scale dy, the gradient by xhat. Moving one x_j of a set moves its xhat
directly (r g_j), through mu (which subtracts r mean(g) from the whole set) and
through v, whose derivative by x_j is 2 (x_j - mu) / M and which changes each xhat by
-xhat r^2 / 2, so all of them together by -xhat_j r mean(g xhat). Hence

    dx = r (g - mean(g) - xhat mean(g xhat)),   means over the set.

It differs from batch norm's in that scale varies within a set and cannot be taken out
of the means. But it is the same at all positions, so both means come from sums over
the positions, channel by channel, which dscale and dbias need anyway. The backward
pass needs x, the scale, and mu and r of each set, never xhat.

On a TPU half-precision x is read once for both statistics, with v = E[x^2] - mu^2, and
the backward pass forms b x + (c - b mu) for b (x - mu) + c, with one vector less. Both
cancel where mu is large, by roundings of 2^-24 of it (of its square, in v); x itself
was rounded by up to 2^-8 (bfloat16) or 2^-11 of it before.

Source: Wu and He, "Group Normalization", 2018.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.geometry import is_integer, layout_hint, looks_channels_first
from cnn_jax.kernels import autodiff
from cnn_jax.kernels.kernel import custom_vjp, kernel
from cnn_jax.kernels.operands import (
    align_manual_axes,
    require_channels,
    require_epsilon,
    require_floating,
    to_array,
    widen,
)
from cnn_jax.kernels.platforms import cpu_optimization_barrier, current_target


@kernel(autodiff.group_norm)
def group_norm(
    x: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    *,
    num_groups: int,
    epsilon: float,
) -> jax.Array:
    """Normalises each example's groups of channels by their own mean and variance.

    A group is c / num_groups consecutive channels; its statistics run over them and
    over all positions. With one channel a group this is instance norm.

    dx = r (g - mean(g) - xhat mean(g xhat)) with g = scale dy and means over the group,
    dscale = sum dy xhat, dbias = sum dy; see the module for the steps.

    Args:
      x: `(n, *spatial, c)`.
      scale: `(c,)`, of x's dtype or float32 (float64 for float64 x); None for ones.
      bias: `(c,)`, likewise; None for zeros.
      num_groups: Divides c.
      epsilon: Added to the biased variance, at least 0.

    Returns:
      The shape and dtype of `x`; computed in float32 or wider.

    Raises:
      ValueError: If shapes or dtypes do not fit, the groups do not divide the channels,
        a group has no entries, or epsilon is none of the statistics' dtype.
    """
    x, scale, bias = jnp.asarray(x), to_array(scale), to_array(bias)
    require_floating("group_norm", x=x)
    if x.ndim < 2 or math.prod(x.shape[1:]) == 0:
        raise ValueError(
            f"group_norm: got x {x.shape}, expected (n, *spatial, c) with at least one "
            "entry an example to take the mean of."
        )
    is_count = is_integer(num_groups) and num_groups > 0

    def divides(shape):
        return is_count and not shape[-1] % num_groups

    require_channels("group_norm", x, fits=divides, scale=scale, bias=bias)
    if not divides(x.shape):
        # Parameters are of the last axis, as has been checked.
        may_move = scale is None and bias is None and looks_channels_first(x.shape)
        raise ValueError(
            f"group_norm: got num_groups {num_groups!r} for {x.shape[-1]} channels, "
            "expected a positive integer that divides them"
            f"{layout_hint(x.shape, x.shape[1], fits=divides) if may_move else ''}."
        )
    return normalize_sets(
        *align_manual_axes(x, scale, bias),
        num_groups,
        tuple(range(1, x.ndim - 1)),
        require_epsilon("group_norm", epsilon, x),
        current_target(),
    )


def normalize_sets(
    x: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    num_groups: int,
    positions: tuple[int, ...],
    epsilon: float,
    target: str,
) -> jax.Array:
    """Normalises sets of entries of `x`: the core of group and of layer norm.

    Args:
      x: `(..., c)`.
      scale: `(c,)` or None.
      bias: `(c,)` or None.
      num_groups: The number of groups of channels.
      positions: The axes over which a set extends besides its group's channels.
      epsilon: Added to the variance.
      target: The platform, as `current_target()` names it.

    Returns:
      The shape and dtype of `x`.
    """
    return _normalize_sets(x, scale, bias, num_groups, positions, epsilon, target)


@functools.partial(custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def _normalize_sets(x, scale, bias, num_groups, positions, epsilon, target):
    return _normalize_sets_fwd(x, scale, bias, num_groups, positions, epsilon, target)[
        0
    ]


def _normalize_sets_fwd(x, scale, bias, num_groups, positions, epsilon, target):
    wide, channels = widen(x), x.shape[-1]
    mean = _group_means(wide, wide, num_groups, positions)
    centred = wide - _per_channel(mean, channels)
    if _reads_once(x, target):
        square = _group_means(jnp.square(wide), wide, num_groups, positions)
        var = jnp.maximum(square - jnp.square(mean), 0)
    else:
        var = _group_means(jnp.square(centred), wide, num_groups, positions)
    r = lax.rsqrt(var + epsilon)
    y = centred * _scaled(_per_channel(r, channels), scale)
    if bias is not None:
        y += _along_channels(bias, y)
    return y.astype(x.dtype), (x, mean, r, scale, None if bias is None else bias[:0])


def _normalize_sets_bwd(num_groups, positions, epsilon, target, residuals, dy):
    x, mean, r, scale, empty_bias = residuals
    channels = x.shape[-1]
    x, mean, r, dy = cpu_optimization_barrier(x, mean, r, dy)
    wide_dy, centred = widen(dy), widen(x) - _per_channel(mean, channels)
    sum_dy, sum_dy_centred = _position_sums(wide_dy, centred, positions)

    def mean_of_scaled(sums):
        return _group_means(_scaled(sums, scale), x, num_groups, positions, summed=True)

    # dx = a dy + b (x - mean) + c, with a of each channel, b and c of each set.
    slope = -(r**3) * mean_of_scaled(sum_dy_centred)
    offset = -r * mean_of_scaled(sum_dy)
    moved = centred
    if _reads_once(x, target):
        moved, offset = widen(x), offset - slope * mean
    dx = (
        wide_dy * _scaled(_per_channel(r, channels), scale)
        + moved * _per_channel(slope, channels)
        + _per_channel(offset, channels)
    )
    if not positions:
        # Without positions these sums are as large as x: to compute them again is
        # cheaper than to store them.
        x, mean, r, dy = cpu_optimization_barrier(x, mean, r, dy)
        wide_dy, centred = widen(dy), widen(x) - _per_channel(mean, channels)
        sum_dy, sum_dy_centred = _position_sums(wide_dy, centred, positions)
    dscale = dbias = None
    examples = tuple(range(x.ndim - 1))
    if scale is not None:
        dscale = jnp.sum(sum_dy_centred * _per_channel(r, channels), examples)
        dscale = dscale.astype(scale.dtype)
    if empty_bias is not None:
        dbias = jnp.sum(sum_dy, examples).astype(empty_bias.dtype)
    return dx.astype(x.dtype), dscale, dbias


_normalize_sets.defvjp(_normalize_sets_fwd, _normalize_sets_bwd)


def _reads_once(x, target):
    """Returns whether x is half-precision on a TPU; see the module."""
    return target == "tpu" and jnp.finfo(x.dtype).bits < 32


def _position_sums(dy, centred, positions):
    return (
        jnp.sum(dy, positions, keepdims=True),
        jnp.sum(dy * centred, positions, keepdims=True),
    )


def _group_means(values, x, num_groups, positions, *, summed=False):
    """Averages over each set of x's entries: `(n, 1, ..., num_groups)`.

    Sums over the positions first, unless `values` are `summed` so already.
    """
    sums = values if summed else jnp.sum(values, positions, keepdims=True)
    group_size = x.shape[-1] // num_groups
    sums = sums.reshape(*sums.shape[:-1], num_groups, group_size)
    count = float(group_size * math.prod(x.shape[axis] for axis in positions))
    return jnp.sum(sums, -1) / count


def _per_channel(of_groups, channels):
    return jnp.repeat(of_groups, channels // of_groups.shape[-1], axis=-1)


def _scaled(values, scale):
    return values if scale is None else values * _along_channels(scale, values)


def _along_channels(vector, like):
    return vector.astype(like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))
