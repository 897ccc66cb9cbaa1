"""Channel vectors beside arrays, the dtype of statistics, and types of cotangents."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec


def along_channels(vector: jax.Array, like: jax.Array) -> jax.Array:
    """Gives a vector of channels as many axes as `like`."""
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def statistics_dtype(x: jax.Array) -> jnp.dtype:
    """Returns float64 for float64 `x`, else float32."""
    return jnp.dtype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)


def type_beside(
    like: jax.Array, shape: tuple[int, ...], *, axes: tuple[int, ...]
) -> jax.ShapeDtypeStruct:
    """Returns the type of an array of `shape` that goes with `like`.

    Args:
      like: Gives the dtype and the mesh.
      shape: The shape.
      axes: The axes that are sharded as those of `like` are; the others are replicated.
        Says nothing but on a mesh with explicit axes.

    Returns:
      What `jax.linear_transpose` may be given for an argument.
    """
    sharding = jax.typeof(like).sharding
    if sharding.mesh.empty:
        return jax.ShapeDtypeStruct(shape, like.dtype)
    spec = [None] * len(shape)
    for axis in axes:
        spec[axis] = sharding.spec[axis]
    sharding = NamedSharding(sharding.mesh, PartitionSpec(*spec))
    return jax.ShapeDtypeStruct(shape, like.dtype, sharding=sharding)
