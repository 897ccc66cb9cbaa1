"""Multiplication by a random mask."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from cnn_jax.kernels.autodiff.vectors import statistics_dtype


def dropout(x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Zeroes each element with probability `rate`, scales the rest by 1/(1 - rate)."""
    return _keep(x, key, rate, x.shape)


def stochastic_depth(x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Zeroes each example with probability `rate`, scales the rest by 1/(1 - rate)."""
    return _keep(x, key, rate, x.shape[:1] + (1,) * (x.ndim - 1))


def spatial_dropout(x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Zeroes each channel with probability `rate`, scales the rest by 1/(1 - rate)."""
    mask_shape = x.shape[:1] + (1,) * (x.ndim - 2) + x.shape[-1:]
    return _keep(x, key, rate, mask_shape)


def drop_block(
    x: jax.Array, key: jax.Array, rate: float, *, block_size: int
) -> jax.Array:
    """Zeroes squares, scales each example's rest to its mean; see `kernels`.

    A pixel is kept if no square that would cover it begins: of the places along an axis
    at which one would, a difference of running sums is the number of those that do.
    """
    if rate == 0.0:
        return x
    sizes = x.shape[1:-1]
    sides = tuple(min(block_size, size) for size in sizes)
    places = tuple(size - side + 1 for size, side in zip(sizes, sides, strict=True))
    gamma = rate * math.prod(sizes) / (math.prod(sides) * math.prod(places))
    seed_shape = (x.shape[0], *places, x.shape[-1])
    begins = jax.random.bernoulli(key, min(gamma, 1.0), seed_shape)
    covered = begins
    for axis, side in enumerate(sides, start=1):
        around = [(0, 0)] * x.ndim
        around[axis] = (side, side - 1)
        sums = jnp.cumsum(jnp.pad(covered, around), axis=axis, dtype=jnp.int32)
        first, last = (
            jax.lax.slice_in_dim(sums, start, start + size, axis=axis)
            for size in (sums.shape[axis] - side,)
            for start in (0, side)
        )
        covered = last > first
    mask = ~covered
    count = jnp.sum(mask, axis=tuple(range(1, x.ndim)), keepdims=True)
    kept = jnp.where(mask, x, jnp.zeros((), x.dtype))
    scale = math.prod(x.shape[1:]) / jnp.maximum(count, 1).astype(statistics_dtype(x))
    return kept * scale.astype(x.dtype)


def _keep(x, key, rate, mask_shape):
    if rate == 0.0:
        return x
    mask = jax.random.bernoulli(key, 1.0 - rate, mask_shape)
    return jnp.where(mask, x / (1.0 - rate), jnp.zeros((), x.dtype))
