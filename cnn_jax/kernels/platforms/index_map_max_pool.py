"""Max-pooling with an index map: no select-and-scatter in the backward pass.

The map says which tap of its window each output came from, one byte per output. XLA's
own gradient searches every window a second time, in a serial loop: forward and backward
together, it is 5 to 20 times slower on a CPU. CPUs and GPUs use this form.

Which tap wins is XLA's rule: scanning in row-major order, a later tap replaces the one
that is held unless held >= later. So the first of equal maxima wins, padded positions
(-inf) compete like others and their gradient is dropped, and after a NaN the scan
starts anew from the next tap, whatever it is, although the maximum itself is NaN.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.geometry import Window
from cnn_jax.kernels.platforms import xla
from cnn_jax.kernels.platforms.taps import sum_over_windows, tap_slices

# Called outside a jit, each step for each tap would be compiled on its own: seconds for
# a 3x3 window. Inlined, so that inside a jit nothing of this is left.
_inlined = functools.partial(jax.jit, static_argnames="window", inline=True)


@_inlined
def max_pool_with_index(x: jax.Array, window: Window) -> tuple[jax.Array, jax.Array]:
    """Returns the maxima and, for each, the row-major number of the tap that won.

    Args:
      x: Input `(n, *spatial, c)`.
      window: The window.

    Returns:
      `(y, index)`, both `(n, *out_spatial, c)`; the index is uint8, or wider for
      windows of more than 255 positions.
    """
    index_dtype = _index_dtype(window)
    if 0 in window.output_sizes:
        shape = (x.shape[0], *window.output_sizes, x.shape[-1])
        return jnp.zeros(shape, x.dtype), jnp.zeros(shape, index_dtype)
    taps = tap_slices(x, window, xla.lowest_value(x.dtype))
    held = next(taps)
    index = jnp.zeros(held.shape, index_dtype)
    # The maximum propagates NaN, the selection does not; and only a selection has the
    # right derivative where values tie.
    maximum = lax.stop_gradient(held)
    for number, tap in enumerate(taps, start=1):
        keep = held >= tap
        held = jnp.where(keep, held, tap)
        index = jnp.where(keep, index, index_dtype.type(number))
        maximum = lax.max(maximum, lax.stop_gradient(tap))
    return jnp.where(jnp.isnan(maximum), maximum, held), index


@_inlined
def max_pool_grad_from_index(
    dy: jax.Array, index: jax.Array, window: Window
) -> jax.Array:
    """Sends each dy to the position that its window's index names.

    Args:
      dy: dL/dy, `(n, *out_spatial, c)`.
      index: As returned by `max_pool_with_index`.
      window: The window.

    Returns:
      dL/dx, `(n, *spatial, c)`.
    """
    if 0 in window.output_sizes:
        return jnp.zeros((dy.shape[0], *window.input_sizes, dy.shape[-1]), dy.dtype)
    index_dtype = _index_dtype(window)
    zero = jnp.zeros((), dy.dtype)

    def chosen(taps, dy, index):
        # Cast to unsigned, -1 becomes the largest value: a tap that no window has.
        return jnp.where(index == jnp.asarray(taps.astype(index_dtype)), dy, zero)

    return sum_over_windows(chosen, window, dy, index)


def _index_dtype(window: Window) -> np.dtype:
    return np.min_scalar_type(math.prod(window.sizes))
