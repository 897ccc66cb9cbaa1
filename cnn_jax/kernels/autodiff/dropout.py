"""Multiplication by a random mask."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def dropout(x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Zeroes each element with probability `rate`, scales the rest by 1/(1 - rate)."""
    return _keep(x, key, rate, x.shape)


def stochastic_depth(x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Zeroes each example with probability `rate`, scales the rest by 1/(1 - rate)."""
    return _keep(x, key, rate, x.shape[:1] + (1,) * (x.ndim - 1))


def _keep(x, key, rate, mask_shape):
    if rate == 0.0:
        return x
    mask = jax.random.bernoulli(key, 1.0 - rate, mask_shape)
    return jnp.where(mask, x / (1.0 - rate), jnp.zeros((), x.dtype))
