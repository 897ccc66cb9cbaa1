r"""Convolution and its three gradients, derived by hand.

In one dimension, with stride s, dilation d and low padding l, and writing x as zero
outside its borders, the forward pass is a correlation:

    y[n, p, o] = b[o] + sum_{k, i} x[n, s p + d k - l, i] w[k, i, o]

The loss L depends on x, w and b only through y, so with dy = dL/dy:

    dL/db[o]       = sum_{n, p} dy[n, p, o]
    dL/dw[k, i, o] = sum_{n, p} x[n, s p + d k - l, i] dy[n, p, o]
    dL/dx[n, q, i] = sum_{k, o} w[k, i, o] dy[n, p, o], all p with s p + d k - l = q

The second line is again a correlation: x with dy as its filter, where now dy is spread
by s, the step is d, and the sum runs over the batch as it ran over channels before. The
third is one as well: put s - 1 zeros between the entries of dy and call it u, so that
u[s p] = dy[p]; then p and k contribute where s p = q + l - d k, and

    dL/dx[n, q, i] = sum_{k, o} u[n, q + l - d k, o] w[k, i, o]

which is u correlated with the flipped filter, its inputs and outputs exchanged. More
dimensions only repeat the index; groups restrict i and o to pairs of one group.

Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016,
for the geometry.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cnn_jax.geometry import Padding, Window, layout_hint
from cnn_jax.kernels import autodiff, platforms, windowed
from cnn_jax.kernels.bias import add_bias, sum_to_channels
from cnn_jax.kernels.kernel import custom_vjp, kernel
from cnn_jax.kernels.operands import (
    align_manual_axes,
    require_floating,
    require_matching_channels,
    to_array,
)


@kernel(autodiff.conv)
def conv(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """Correlates `x` with the filters `w` and adds the bias `b`.

    Reverse mode uses the gradients of this module; forward mode (`jax.jvp`) is not
    defined for a custom VJP: use `cnn_jax.kernels.autodiff.conv` there.

    Args:
      x: Input `(n, *spatial, in)`, one to three spatial dimensions.
      w: Filters `(*spatial, in / groups, out)`.
      b: Bias `(out,)`, or None.
      strides: Step between two placements, one integer or one per dimension.
      padding: "SAME", "VALID", an integer, or an integer or `(low, high)` pair for each
        dimension; negative amounts crop.
      dilation: Step between two taps of the filter.
      groups: Into how many groups the channels are divided; `in` is depthwise.
      precision: As in `jax.lax.conv_general_dilated`.

    Returns:
      `(n, *out_spatial, out)` in the operands' dtype; empty where the filter does not
      fit into the padded input.

    Raises:
      ValueError: If shapes, dtypes or arguments do not fit together.
    """
    x, w = jnp.asarray(x), jnp.asarray(w)
    b = to_array(b)
    window = _resolve(
        *("conv", x.shape, w.shape, strides, padding, dilation, groups),
        bias_shape=None if b is None else b.shape,
        hint=None,
    )
    require_floating("conv", x=x, w=w, b=b)
    if b is not None and b.shape != w.shape[-1:]:
        raise ValueError(f"conv: got b {b.shape}, expected {w.shape[-1:]}.")
    x, window = _crop(x, window)
    y = _conv(*align_manual_axes(x, w), window, groups, precision)
    return add_bias(y, b)


def _crop(x, window):
    """Cuts off what negative padding removes, so that it is not saved, either."""
    cut, padding = windowed.crop(x, window.padding)
    if cut.size == 0:
        return x, window
    sizes = cut.shape[1:-1]
    return cut, dataclasses.replace(window, input_sizes=sizes, padding=padding)


@functools.partial(custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv(x, w, window, groups, precision):
    return platforms.conv(x, w, window, groups, precision)


def _conv_fwd(x, w, window, groups, precision):
    return platforms.conv(x, w, window, groups, precision), (x, w)


def _conv_bwd(window, groups, precision, residuals, dy):
    x, w = residuals
    return (
        platforms.conv_input_grad(dy, w, window, groups, precision),
        platforms.conv_filter_grad(x, dy, window, groups, precision),
    )


_conv.defvjp(_conv_fwd, _conv_bwd)


@kernel(autodiff.conv_input_grad)
def conv_input_grad(
    dy: jax.Array,
    w: jax.Array,
    *,
    input_shape: Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """Returns dL/dx of `conv`: dy, spread by the stride, against the flipped filter.

    dx[n, q, i] = sum_{k, o} w[k, i, o] dy[n, p, o] over all p with s p + d k - l = q.

    Args:
      dy: dL/dy, of the shape that `conv` returns.
      w: Filters `(*spatial, in / groups, out)`.
      input_shape: The shape of x, `(n, *spatial, in)`.
      strides: As for `conv`, and so the remaining arguments.
      padding: As for `conv`.
      dilation: As for `conv`.
      groups: As for `conv`.
      precision: As for `conv`.

    Returns:
      dL/dx, of `input_shape`.

    Raises:
      ValueError: If shapes, dtypes or arguments do not fit together.
    """
    dy, w = jnp.asarray(dy), jnp.asarray(w)
    name = "conv_input_grad"
    window = _resolve(name, input_shape, w.shape, strides, padding, dilation, groups)
    require_floating(name, dy=dy, w=w)
    _require_output_shape(name, dy.shape, input_shape, w.shape, window)
    dy, w = align_manual_axes(dy, w)
    return platforms.conv_input_grad(dy, w, window, groups, precision)


@kernel(autodiff.conv_filter_grad)
def conv_filter_grad(
    x: jax.Array,
    dy: jax.Array,
    *,
    filter_shape: Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """Returns dL/dw of `conv`: the input against dy, summed over batch and positions.

    dw[k, i, o] = sum_{n, p} x[n, s p + d k - l, i] dy[n, p, o].

    Args:
      x: Input `(n, *spatial, in)`.
      dy: dL/dy, of the shape that `conv` returns.
      filter_shape: The shape of w, `(*spatial, in / groups, out)`.
      strides: As for `conv`, and so the remaining arguments.
      padding: As for `conv`.
      dilation: As for `conv`.
      groups: As for `conv`.
      precision: As for `conv`.

    Returns:
      dL/dw, of `filter_shape`.

    Raises:
      ValueError: If shapes, dtypes or arguments do not fit together.
    """
    x, dy = jnp.asarray(x), jnp.asarray(dy)
    name = "conv_filter_grad"
    window = _resolve(name, x.shape, filter_shape, strides, padding, dilation, groups)
    require_floating(name, x=x, dy=dy)
    _require_output_shape(name, dy.shape, x.shape, filter_shape, window)
    x, dy = align_manual_axes(x, dy)
    return platforms.conv_filter_grad(x, dy, window, groups, precision)


@kernel(autodiff.conv_bias_grad)
def conv_bias_grad(dy: jax.Array) -> jax.Array:
    """Returns dL/db of `conv`: the bias is added at every position, so dy is summed.

    Args:
      dy: dL/dy, `(n, *spatial, out)`.

    Returns:
      dL/db `(out,)` in dy's dtype, summed in float32 or wider.

    Raises:
      ValueError: If dy has no channel dimension or is not floating-point.
    """
    dy = jnp.asarray(dy)
    require_floating("conv_bias_grad", dy=dy)
    if dy.ndim < 2:
        raise ValueError(
            f"conv_bias_grad: got dy {dy.shape}, expected (n, *spatial, out)."
        )
    return sum_to_channels(dy)


def _resolve(
    name,
    input_shape,
    filter_shape,
    strides,
    padding,
    dilation,
    groups,
    *,
    bias_shape=None,
    hint="",
):
    """Checks that the shapes fit together and returns the window they describe."""
    input_shape, filter_shape = tuple(input_shape), tuple(filter_shape)
    # By default nothing is said of moving axes: of a gradient, one of the two is no
    # array.
    require_matching_channels(
        name, input_shape, filter_shape, groups, bias_shape=bias_shape, hint=hint
    )
    return Window.resolve(
        input_shape[1:-1],
        filter_shape[:-2],
        strides=strides,
        padding=padding,
        dilation=dilation,
    )


def _require_output_shape(name, shape, input_shape, filter_shape, window):
    expected = (input_shape[0], *window.output_sizes, filter_shape[-1])
    if shape != expected:
        hint = layout_hint(shape, expected[-1], "dy", fits=expected.__eq__)
        raise ValueError(f"{name}: got dy {shape}, expected {expected}{hint}.")
