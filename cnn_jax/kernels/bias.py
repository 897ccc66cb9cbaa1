"""Adding a bias per channel, and its gradient, for conv and dense."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cnn_jax.kernels.kernel import custom_vjp
from cnn_jax.kernels.operands import accumulation_dtype, align_manual_axes


def add_bias(y: jax.Array, b: jax.Array | None) -> jax.Array:
    """Adds `b` `(channels,)` to the last axis of `y`; None adds nothing.

    The bias is added to every row of y, so db is dy summed over all axes but the last.
    """
    return y if b is None else _add_bias(*align_manual_axes(y, b))


@custom_vjp
def _add_bias(y, b):
    return y + jnp.broadcast_to(b, y.shape)


def _add_bias_fwd(y, b):
    return y + jnp.broadcast_to(b, y.shape), None


def _add_bias_bwd(_, dy):
    return dy, sum_to_channels(dy)


_add_bias.defvjp(_add_bias_fwd, _add_bias_bwd)


def sum_to_channels(dy: jax.Array) -> jax.Array:
    """Sums all axes but the last, in float32 or wider, and returns dy's dtype."""
    wide = dy.astype(accumulation_dtype(dy.dtype))
    return jnp.sum(wide, axis=tuple(range(dy.ndim - 1))).astype(dy.dtype)
