"""The dense layer's product as one `lax.dot_general`."""

from __future__ import annotations

import jax
from jax import lax

from cnn_jax.kernels.autodiff.vectors import along_channels


def dense(x: jax.Array, w: jax.Array, b: jax.Array | None = None) -> jax.Array:
    """Applies an affine map to the last axis: `(..., i) @ (i, o) + (o,)`."""
    y = lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ())))
    return y if b is None else y + along_channels(b, y)
