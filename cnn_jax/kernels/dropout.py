"""Dropout of entries, channels, squares and examples: a mask drawn twice, never stored.

All multiply by a random m, so y = m x and dx = m dy with the same m. The mask is a
pure function of the key: the key is saved, and the backward pass draws the mask again.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from cnn_jax.geometry import is_integer
from cnn_jax.kernels import autodiff
from cnn_jax.kernels.kernel import custom_vjp, kernel
from cnn_jax.kernels.operands import (
    accumulation_dtype,
    align_manual_axes,
    require_floating,
)


@kernel(autodiff.dropout)
def dropout(x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Zeroes each entry with probability `rate` and scales the rest by 1 / (1 - rate).

    dx = m dy with m = 0 or 1 / (1 - rate), the mask of the forward pass.

    Args:
      x: Any shape, floating-point.
      key: A key of `jax.random.key` (or a legacy uint32 key).
      rate: The probability of dropping, a Python float in [0, 1); 0 is the identity.

    Returns:
      The shape and dtype of `x`.

    Raises:
      ValueError: If the rate is not in [0, 1) or x is not floating-point.

    Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting", 2014.
    """
    x = jnp.asarray(x)
    require_floating("dropout", x=x)
    return _masked("dropout", x, key, rate, x.shape)


@kernel(autodiff.stochastic_depth)
def stochastic_depth(x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Zeroes whole examples with probability `rate`, scales the rest by 1/(1 - rate).

    dx = m[n] dy[n], one m for each example n. Applied to a residual branch, it leaves
    the skip connection alone for the dropped examples.

    Args:
      x: `(n, ...)`, floating-point.
      key: A key of `jax.random.key` (or a legacy uint32 key).
      rate: The probability of dropping, a Python float in [0, 1); 0 is the identity.

    Returns:
      The shape and dtype of `x`.

    Raises:
      ValueError: If the rate is not in [0, 1), or x has no batch dimension or is not
        floating-point.

    Source: Huang et al., "Deep Networks with Stochastic Depth", 2016.
    """
    x = jnp.asarray(x)
    require_floating("stochastic_depth", x=x)
    if x.ndim < 1:
        raise ValueError("stochastic_depth: got a scalar, expected (n, ...).")
    mask_shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    return _masked("stochastic_depth", x, key, rate, mask_shape)


@kernel(autodiff.spatial_dropout)
def spatial_dropout(x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Zeroes whole channels with probability `rate`, scales the rest by 1/(1 - rate).

    dx = m[n, c] dy[n, ..., c], one m for each channel of each example: neighbouring
    pixels are correlated, so that dropping a few of them removes little information.

    Args:
      x: `(n, *spatial, c)`, floating-point.
      key: A key of `jax.random.key` (or a legacy uint32 key).
      rate: The probability of dropping, a Python float in [0, 1); 0 is the identity.

    Returns:
      The shape and dtype of `x`.

    Raises:
      ValueError: If the rate is not in [0, 1), or x has fewer than two dimensions or is
        not floating-point.

    Source: Tompson et al., "Efficient Object Localization Using Convolutional
    Networks", 2015.
    """
    x = jnp.asarray(x)
    require_floating("spatial_dropout", x=x)
    if x.ndim < 2:
        raise ValueError(
            f"spatial_dropout: got an input of shape {x.shape}, expected (n, *spatial, "
            "c)."
        )
    mask_shape = (x.shape[0],) + (1,) * (x.ndim - 2) + (x.shape[-1],)
    return _masked("spatial_dropout", x, key, rate, mask_shape)


@kernel(autodiff.drop_block)
def drop_block(
    x: jax.Array, key: jax.Array, rate: float, *, block_size: int
) -> jax.Array:
    """Zeroes squares of each channel and scales each example's rest to its old mean.

    A square of side b begins at each place where one fits, with the probability gamma
    at which about `rate` of a map is dropped:

        gamma = rate prod_d(s_d / (b_d (s_d - b_d + 1))),    b_d = min(b, s_d)

    over the spatial sizes s (equation 1 of the paper). What remains is multiplied by
    entries / entries that remain, counted over an example: dx = m dy, with m that
    number or 0. The paper leaves open what is counted together; a whole batch would tie
    its examples, and the devices that hold them, to each other. An example of which
    nothing remains is zero.

    Args:
      x: `(n, *spatial, c)`, floating-point.
      key: A key of `jax.random.key` (or a legacy uint32 key).
      rate: The share to drop, a Python float in [0, 1); 0 is the identity. Squares
        overlap, so somewhat less is dropped.
      block_size: b, at least 1; 1 drops single entries.

    Returns:
      The shape and dtype of `x`.

    Raises:
      ValueError: If the rate is not in [0, 1), the size is below 1, or x has no spatial
        dimension or is not floating-point.

    Source: Ghiasi et al., "DropBlock: A regularization method for convolutional
    networks", 2018; channels have masks of their own, which they found better.
    """
    x = jnp.asarray(x)
    require_floating("drop_block", x=x)
    _require_rate("drop_block", rate)
    if x.ndim < 3:
        raise ValueError(
            f"drop_block: got an input of shape {x.shape}, expected (n, *spatial, c)."
        )
    if not is_integer(block_size) or block_size < 1:
        raise ValueError(
            f"drop_block: got block_size {block_size!r}, expected a positive integer."
        )
    if rate == 0.0 or x.size == 0:
        return x
    x, key = align_manual_axes(x, key)
    return _drop_block(x, key, float(rate), block_size)


def _require_rate(name, rate):
    if isinstance(rate, jax.core.Tracer) or not 0.0 <= rate < 1.0:
        raise ValueError(f"{name}: got rate {rate}, expected a number in [0, 1).")


def _masked(name, x, key, rate, mask_shape):
    _require_rate(name, rate)
    if rate == 0.0:
        return x
    x, key = align_manual_axes(x, key)
    return _apply_mask(x, key, float(rate), mask_shape)


def _mask(x, key, rate, mask_shape):
    kept = jax.random.bernoulli(key, 1.0 - rate, mask_shape)
    return jnp.where(kept, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), 0)


@functools.partial(custom_vjp, nondiff_argnums=(2, 3))
def _apply_mask(x, key, rate, mask_shape):
    return _mask(x, key, rate, mask_shape)


def _apply_mask_fwd(x, key, rate, mask_shape):
    return _mask(x, key, rate, mask_shape), key


def _apply_mask_bwd(rate, mask_shape, key, dy):
    return _mask(dy, key, rate, mask_shape), None


_apply_mask.defvjp(_apply_mask_fwd, _apply_mask_bwd)


def _drop_squares(x, key, rate, block_size):
    sizes = x.shape[1:-1]
    sides = tuple(min(block_size, size) for size in sizes)
    places = tuple(size - side + 1 for size, side in zip(sizes, sides, strict=True))
    gamma = rate * math.prod(sizes) / (math.prod(sides) * math.prod(places))
    begins = jax.random.bernoulli(
        key, min(gamma, 1.0), (x.shape[0], *places, x.shape[-1])
    )
    dropped = begins
    for axis, side in enumerate(sides, start=1):
        dropped = _reach(dropped, axis, side)
    kept = ~dropped
    axes = tuple(range(1, x.ndim))
    remaining = jnp.sum(kept, axis=axes, keepdims=True, dtype=jnp.int32)
    dtype = accumulation_dtype(x.dtype)
    scale = float(math.prod(x.shape[1:])) / jnp.maximum(remaining, 1).astype(dtype)
    return jnp.where(kept, x * scale.astype(x.dtype), 0)


def _reach(begins, axis, side):
    """Marks the `side` entries from each that is True on, along an axis.

    A square is the same along one axis after the other, and each doubling of the reach
    is one step: a window of side^2 entries takes minutes where it is as large as a map.
    """
    margins = [(0, 0)] * begins.ndim
    margins[axis] = (side - 1, side - 1)
    found, reach = jnp.pad(begins, margins), 1
    while reach < side:
        step = min(reach, side - reach)
        size = found.shape[axis] - step
        found = jax.lax.slice_in_dim(found, 0, size, axis=axis) | (
            jax.lax.slice_in_dim(found, step, size + step, axis=axis)
        )
        reach += step
    return found


@functools.partial(custom_vjp, nondiff_argnums=(2, 3))
def _drop_block(x, key, rate, block_size):
    return _drop_squares(x, key, rate, block_size)


def _drop_block_fwd(x, key, rate, block_size):
    return _drop_squares(x, key, rate, block_size), key


def _drop_block_bwd(rate, block_size, key, dy):
    return _drop_squares(dy, key, rate, block_size), None


_drop_block.defvjp(_drop_block_fwd, _drop_block_bwd)
