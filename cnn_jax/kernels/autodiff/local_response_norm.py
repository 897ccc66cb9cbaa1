"""Local response normalisation in plain lax."""

from __future__ import annotations

import jax
from jax import lax


def local_response_norm(
    x: jax.Array,
    *,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
) -> jax.Array:
    """Divides by the windowed sum of squares, by `lax.reduce_window`."""
    ones = (1,) * (x.ndim - 1)
    energy = lax.reduce_window(
        lax.square(x),
        0.0,
        lax.add,
        window_dimensions=(*ones, size),
        window_strides=(*ones, 1),
        padding=((0, 0),) * (x.ndim - 1) + ((size // 2, (size - 1) // 2),),
    )
    return x / (k + alpha * energy) ** beta
