"""Squeeze-and-excite by mean, two dense layers and a product."""

from __future__ import annotations

from collections.abc import Callable

import jax

from cnn_jax.kernels.autodiff.activation import named_like, relu, sigmoid
from cnn_jax.kernels.autodiff.dense import dense
from cnn_jax.kernels.autodiff.pool import global_avg_pool


def squeeze_excite(
    x: jax.Array,
    squeeze_w: jax.Array,
    squeeze_b: jax.Array,
    expand_w: jax.Array,
    expand_b: jax.Array,
    *,
    activation: Callable[[jax.Array], jax.Array] = relu,
    gate: Callable[[jax.Array], jax.Array] = sigmoid,
) -> jax.Array:
    """Scales each channel by a gate; see `kernels.squeeze_excite`.

    Args:
      x: Input `(n, *spatial, c)`.
      squeeze_w: Weights `(c, m)`.
      squeeze_b: `(m,)`.
      expand_w: Weights `(m, c)`.
      expand_b: `(c,)`.
      activation: A kernel or a twin; the twin of its name is applied.
      gate: Likewise.

    Returns:
      The output in x's shape and dtype.
    """
    hidden = named_like(activation)(dense(global_avg_pool(x), squeeze_w, squeeze_b))
    factors = named_like(gate)(dense(hidden, expand_w, expand_b))
    return x * factors.reshape(x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
