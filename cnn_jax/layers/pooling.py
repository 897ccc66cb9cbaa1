"""Pooling that leaves no input over, which early networks and PyTorch's need."""

from __future__ import annotations

from collections.abc import Callable

import jax

from cnn_jax import geometry
from cnn_jax import kernels as K


def ceil_pool(
    x: jax.Array,
    window: int,
    *,
    strides: int,
    padding: int = 0,
    pool: Callable[..., jax.Array] = K.max_pool,
) -> jax.Array:
    """Returns `x` `(n, *spatial, c)` pooled, with the number of windows rounded up.

    This is Caffe's rule and PyTorch's `ceil_mode=True` (`geometry.ceil_padding`).

    Args:
      x: Activations.
      window: The window's size in every spatial dimension.
      strides: The step between two windows, likewise.
      padding: What is added on both sides before anything is rounded.
      pool: `kernels.max_pool`, or `kernels.avg_pool` with `count_include_pad=False`.
    """
    paddings = tuple(
        geometry.ceil_padding(size, window, strides, padding) for size in x.shape[1:-1]
    )
    return pool(x, window, strides=strides, padding=paddings)
