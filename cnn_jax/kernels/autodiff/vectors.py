"""Channel vectors beside arrays, and the dtype that statistics are kept in."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def along_channels(vector: jax.Array, like: jax.Array) -> jax.Array:
    """Gives a vector of channels as many axes as `like`."""
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def statistics_dtype(x: jax.Array) -> jnp.dtype:
    """Returns float64 for float64 `x`, else float32."""
    return jnp.dtype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)
