"""Convolution by 1x1 filters: one matrix product, with the batch axis left alone.

XLA's CPU backend runs it as a convolution all the same, with a filter gradient that is
3 to 12 times slower. The products contract several axes at once instead of merging
batch and positions into one, so that a batch sharded over devices stays sharded.
"""

from __future__ import annotations

import jax
import numpy as np
from jax import lax

from cnn_jax.geometry import Window
from cnn_jax.kernels.lowering.cpu.taps import accumulation_dtype


def conv(x: jax.Array, w: jax.Array, window: Window, precision) -> jax.Array:
    """Multiplies the channels at each visited position by the filter matrix."""
    return _dot(_visited(x, window), w.reshape(w.shape[-2:]), (-1,), (0,), precision)


def conv_input_grad(
    dy: jax.Array, w: jax.Array, window: Window, precision
) -> jax.Array:
    """Multiplies by the transposed matrix, and puts zeros where nothing was visited."""
    dx = _dot(dy, w.reshape(w.shape[-2:]), (-1,), (1,), precision)
    gaps = [
        (0, size - (out - 1) * stride - 1, stride - 1)
        for size, out, stride in zip(
            window.input_sizes, window.output_sizes, window.strides, strict=True
        )
    ]
    return lax.pad(dx, np.zeros((), dx.dtype), ((0, 0, 0), *gaps, (0, 0, 0)))


def conv_filter_grad(
    x: jax.Array, dy: jax.Array, window: Window, precision
) -> jax.Array:
    """Multiplies inputs by dy, over the batch and all visited positions."""
    places = tuple(range(x.ndim - 1))
    dw = _dot(_visited(x, window), dy, places, places, precision)
    return dw.reshape(*window.sizes, *dw.shape)


def _visited(x: jax.Array, window: Window) -> jax.Array:
    return lax.slice(x, (0,) * x.ndim, x.shape, (1, *window.strides, 1))


def _dot(a, b, a_axes, b_axes, precision):
    a_axes = tuple(axis % a.ndim for axis in a_axes)
    return lax.dot_general(
        a,
        b,
        ((a_axes, b_axes), ((), ())),
        precision=precision,
        preferred_element_type=accumulation_dtype(a.dtype),
    ).astype(a.dtype)
