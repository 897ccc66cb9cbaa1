"""lax's windowed operations, given no geometry that XLA computes wrongly.

jax 0.10 reads outside of the input on a CPU where a convolution's padding is negative
in front and positive behind (in all dtypes but float64), and in every version up to
0.12 a CPU's compiler aborts the process for a windowed reduction by a window of one
element that crops. So what crops is cut off here, and only padding is left to XLA.

The same holds for what JAX makes of a convolution when it differentiates it: padding in
front that is longer than the window's reach becomes a crop in its transpose. The
outputs that such padding makes are zeros, which are put in front of the result.

Where nothing crops and no padding is longer than that, each function is the lax
operation and nothing else.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.geometry import (
    Window,
    crop_padding,
    dilated_size,
    output_size,
    spread_size,
)


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: lax.ConvDimensionNumbers | tuple[str, str, str] | None = None,
    **options: Any,
) -> jax.Array:
    """Calls `lax.conv_general_dilated` after cropping what negative padding removes.

    Args:
      lhs: Input, in the layout that `dimension_numbers` describes.
      rhs: Filters, likewise.
      window_strides: Step between two placements, one for each spatial dimension.
      padding: As for lax: a name, or a `(low, high)` pair for each spatial dimension.
      lhs_dilation: Step between two entries of the spread input.
      rhs_dilation: Step between two taps of the filter.
      dimension_numbers: As for lax.
      **options: The remaining arguments of lax.

    Returns:
      The convolution in the layout that `dimension_numbers` describes.
    """

    def convolve(lhs, padding):
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            **options,
        )

    if isinstance(padding, str):
        return convolve(lhs, padding)
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    ones = (1,) * (lhs.ndim - 2)
    padding = tuple(
        (operator.index(low), operator.index(high)) for low, high in padding
    )
    starts, limits = [0] * lhs.ndim, list(lhs.shape)
    pairs, zeros = [], [(0, 0, 0)] * lhs.ndim
    is_nothing = False
    for axis, filter_axis, out_axis, stride, spread, dilation, pair in zip(
        numbers.lhs_spec[2:],
        numbers.rhs_spec[2:],
        numbers.out_spec[2:],
        window_strides,
        lhs_dilation or ones,
        rhs_dilation or ones,
        padding,
        strict=True,
    ):
        size, taps = lhs.shape[axis], rhs.shape[filter_axis]
        reach = dilated_size(taps, dilation) - 1
        low, high = pair
        if low > reach >= 0:
            # As many outputs see nothing but padding: the window's last tap is at
            # j * stride - low + reach.
            out = output_size(spread_size(size, spread), taps, stride, pair, dilation)
            blind = min(-((reach - low) // stride), out)
            zeros[out_axis] = (blind, 0, 0)
            low -= blind * stride
            is_nothing |= blind == out
        if min(low, high) < 0 and not (low >= 0 > high):
            start, limit, (low, high) = crop_padding(size, spread, (low, high))
            starts[axis], limits[axis] = start, limit
            is_nothing |= start == limit
        pairs.append((low, high))
    if is_nothing:
        output = jax.eval_shape(lambda lhs: convolve(lhs, padding), lhs)
        return _linear_zeros(lhs, rhs, output)
    if limits != list(lhs.shape) or any(starts):
        lhs = lax.slice(lhs, starts, limits)
    y = convolve(lhs, pairs)
    if any(before for before, _, _ in zeros):
        y = lax.pad(y, np.zeros((), y.dtype), zeros)
    return y


def _linear_zeros(lhs, rhs, output):
    """Returns zeros that vary over both operands' manual axes, linear in each."""
    dtype = output.dtype
    nothing = jnp.sum(lhs[:0]).astype(dtype) * jnp.sum(rhs[:0]).astype(dtype)
    return jnp.broadcast_to(nothing, output.shape)


def reduce_window(
    x: jax.Array,
    initial: np.ndarray,
    reduce_fn: Callable[[jax.Array, jax.Array], jax.Array],
    window: Window,
) -> jax.Array:
    """Calls `lax.reduce_window` over the spatial axes of `x`, after cropping.

    Args:
      x: Input `(n, *spatial, c)`.
      initial: What padding holds and reductions begin with.
      reduce_fn: Reduces two values to one.
      window: The window.

    Returns:
      `(n, *out_spatial, c)`.
    """
    x, padding = crop(x, window.padding)
    if 0 in x.shape[1:-1]:
        # Cropped to nothing, and padded: XLA is not given such a window.
        x = lax.pad(x, initial, ((0, 0, 0), *((*p, 0) for p in padding), (0, 0, 0)))
        padding = ((0, 0),) * window.rank
    return lax.reduce_window(
        x,
        initial,
        reduce_fn,
        window_dimensions=(1, *window.sizes, 1),
        window_strides=(1, *window.strides, 1),
        padding=((0, 0), *padding, (0, 0)),
        window_dilation=(1, *window.dilation, 1),
    )


def crop(
    x: jax.Array, padding: Sequence[tuple[int, int]], strides: Sequence[int] = ()
) -> tuple[jax.Array, tuple[tuple[int, int], ...]]:
    """Cuts off what negative padding removes.

    Args:
      x: Array `(n, *spatial, c)`.
      padding: One `(low, high)` pair per spatial dimension.
      strides: The step between the entries once they are spread; none spreads nothing.

    Returns:
      The rest of x, and the padding, never negative, that is left for it.
    """
    starts, limits, pairs = zip(
        *map(crop_padding, x.shape[1:-1], strides or (1,) * len(padding), padding),
        strict=True,
    )
    if limits != x.shape[1:-1] or any(starts):
        x = lax.slice(x, (0, *starts, 0), (x.shape[0], *limits, x.shape[-1]))
    return x, pairs
