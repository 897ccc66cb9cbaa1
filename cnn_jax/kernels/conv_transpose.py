r"""Transposed convolution and its gradients, derived by hand.

In one dimension, with stride s, dilation d and low padding a, put s - 1 zeros between
the entries of x, call the result u, so that u[s p] = x[p], and read it as zero outside
its borders. The transposed convolution is u correlated with w at stride 1:

    y[n, q, o] = b[o] + sum_{k, i} u[n, q + d k - a, i] w[k, i, o]

Only terms with q + d k - a = s p are not zero, so each input sends its product with
every tap to one output position:

    y[n, q, o] = b[o] + sum_{p, k, i: s p + a - d k = q} x[n, p, i] w[k, i, o]

The products are the same whichever way they are summed, so with dy = dL/dy:

    dL/db[o]       = sum_{n, q} dy[n, q, o]
    dL/dx[n, p, i] = sum_{k, o} dy[n, s p + a - d k, o] w[k, i, o]
    dL/dw[k, i, o] = sum_{n, p} dy[n, s p + a - d k, o] x[n, p, i]

Count the taps from the other end, k' = K - 1 - k, and let l = d (K - 1) - a: then
s p + a - d k = s p + d k' - l, which is how an ordinary convolution of stride s and low
padding l visits its input (`kernels.conv`). So for the flipped and transposed filters
W[k', o, i] = w[k, i, o] and the window over y that these numbers describe,

    y     is the input gradient  of that convolution, for the output gradient x
    dL/dx is that convolution    of dy
    dL/dw is its filter gradient for the input dy and the output gradient x,
          flipped and transposed back

and every fast form of those three serves here. Groups restrict i and o to pairs of one
group, as they do there.

Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016,
chapter 4; the paddings are those of `jax.lax.conv_transpose`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cnn_jax.geometry import Padding, Window, explicit_transposed_padding
from cnn_jax.kernels import autodiff, platforms, windowed
from cnn_jax.kernels.bias import add_bias
from cnn_jax.kernels.kernel import custom_vjp, kernel
from cnn_jax.kernels.operands import (
    align_manual_axes,
    require_floating,
    require_matching_channels,
    to_array,
)


@kernel(autodiff.conv_transpose)
def conv_transpose(
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
    """Spreads `x` by the strides, correlates it with the filters `w`, adds `b`.

    Without groups this is `jax.lax.conv_transpose` with `transpose_kernel=False` and
    the layouts below. Reverse mode uses the gradients of this module; for forward mode
    see `cnn_jax.kernels.autodiff.conv_transpose`.

    Args:
      x: Input `(n, *spatial, in)`, one to three spatial dimensions.
      w: Filters `(*spatial, in / groups, out)`.
      b: Bias `(out,)`, or None.
      strides: By how much the output is longer than the input, one integer or one per
        dimension.
      padding: "SAME" for an output of `size * stride`, "VALID" for one that holds the
        whole filter at every entry, or what is added to the spread input: an integer,
        or an integer or `(low, high)` pair for each dimension; negative amounts crop.
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
    bias_shape = None if b is None else b.shape
    require_matching_channels(
        "conv_transpose", x.shape, w.shape, groups, bias_shape=bias_shape
    )
    require_floating("conv_transpose", x=x, w=w, b=b)
    if b is not None and b.shape != w.shape[-1:]:
        raise ValueError(f"conv_transpose: got b {b.shape}, expected {w.shape[-1:]}.")
    window = Window.resolve_transposed(
        x.shape[1:-1],
        w.shape[:-2],
        strides=strides,
        padding=padding,
        dilation=dilation,
    )
    x, window = _crop(x, window, padding)
    y = _conv_transpose(*align_manual_axes(x, w), window, groups, precision)
    return add_bias(y, b)


def _crop(x, window, padding):
    """Cuts off what negative padding removes, so that it is not saved, either."""
    geometry = {"strides": window.strides, "dilation": window.dilation}
    pairs = explicit_transposed_padding(padding, window.sizes, **geometry)
    cut, pairs = windowed.crop(x, pairs, window.strides)
    if cut.size in (0, x.size):
        return x, window
    return cut, Window.resolve_transposed(
        cut.shape[1:-1], window.sizes, padding=pairs, **geometry
    )


@functools.partial(custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv_transpose(x, w, window, groups, precision):
    return platforms.conv_transpose(x, w, window, groups, precision)


def _conv_transpose_fwd(x, w, window, groups, precision):
    return platforms.conv_transpose(x, w, window, groups, precision), (x, w)


def _conv_transpose_bwd(window, groups, precision, residuals, dy):
    x, w = residuals
    return (
        platforms.conv_transpose_input_grad(dy, w, window, groups, precision),
        platforms.conv_transpose_filter_grad(x, dy, window, groups, precision),
    )


_conv_transpose.defvjp(_conv_transpose_fwd, _conv_transpose_bwd)
