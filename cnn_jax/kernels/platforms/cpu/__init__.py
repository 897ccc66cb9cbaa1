"""Forms that are faster on a CPU than what XLA makes of the plain lax operation.

The same names as in `platforms.xla`. Each rule below picks a form by the kind of
convolution, never by a table of sizes; what has no better form calls `xla`. The ratios
in these modules compare with `jax.vjp` of the lax operation, float32, on two cores with
AVX-512, under jax 0.10 and 0.12.
"""

from __future__ import annotations

import math
import operator
import os

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.geometry import Window
from cnn_jax.kernels.platforms import xla
from cnn_jax.kernels.platforms.cpu import dense, depthwise, grouped, pointwise

__all__ = [
    "conv",
    "conv_filter_grad",
    "conv_input_grad",
    "conv_transpose",
    "conv_transpose_filter_grad",
    "conv_transpose_input_grad",
]

# The unrolled forms grow with the window, and so does the time to compile them.
_MOST_UNROLLED_TAPS = 128


def conv(
    x: jax.Array,
    w: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Correlates `x` with the filters `w`."""
    if _is_empty(window, x, w):
        return xla.conv(x, w, window, groups, precision)
    if _is_depthwise(x.shape[-1], window, groups):
        return depthwise.conv(x, w, window)
    if groups > 1:
        return grouped.conv(conv, x, w, window, groups, precision)
    if window.is_pointwise and not _is_left_to_onednn(x.dtype):
        return pointwise.conv(x, w, window, precision)
    return xla.conv(x, w, window, groups, precision)


def conv_input_grad(
    dy: jax.Array,
    w: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Returns dL/dx of `conv`."""
    inputs = w.shape[-2] * groups
    if _is_empty(window, dy, w):
        return xla.conv_input_grad(dy, w, window, groups, precision)
    if _is_depthwise(inputs, window, groups):
        return depthwise.conv_input_grad(dy, w, window, inputs)
    if groups > 1:
        return grouped.conv_input_grad(
            conv_input_grad, dy, w, window, groups, precision
        )
    is_strided = max(window.strides) > 1
    if window.is_pointwise and (is_strided or not _is_left_to_onednn(dy.dtype)):
        return pointwise.conv_input_grad(dy, w, window, precision)
    if _has_fast_phases(dy.dtype, inputs, window):
        return dense.strided_input_grad(dy, w, window, precision)
    return dense.conv_input_grad(dy, w, window, precision)


def conv_transpose(
    x: jax.Array,
    w: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Correlates `x`, spread by the stride, with `w`: from outputs to inputs."""
    w = xla.transpose_filter(w, groups)
    return conv_input_grad(x, w, window, groups, precision)


def conv_transpose_input_grad(
    dy: jax.Array,
    w: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Correlates dy with the flipped and transposed filters: from inputs to outputs."""
    return conv(dy, xla.transpose_filter(w, groups), window, groups, precision)


def conv_transpose_filter_grad(
    x: jax.Array,
    dy: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Transposes the filter gradient of the convolution that leads from dy to x."""
    dw = conv_filter_grad(dy, x, window, groups, precision)
    return xla.transpose_filter(dw, groups)


def conv_filter_grad(
    x: jax.Array,
    dy: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Returns dL/dw of `conv`."""
    if _is_empty(window, x, dy):
        return xla.conv_filter_grad(x, dy, window, groups, precision)
    if _is_depthwise(x.shape[-1], window, groups):
        return depthwise.conv_filter_grad(x, dy, window)
    if groups > 1:
        return grouped.conv_filter_grad(
            conv_filter_grad, x, dy, window, groups, precision
        )
    if window.is_pointwise:
        return pointwise.conv_filter_grad(x, dy, window, precision)
    return dense.conv_filter_grad(x, dy, window, precision)


def _has_fast_phases(dtype, inputs: int, window: Window) -> bool:
    """Returns whether a strided input gradient is faster when split into phases.

    In float32, phases gain 1.1 to 2 times from 16 to 128 channels. On an image's 3
    channels, and where the products are big, they lose up to 40 % to XLA, which then
    handles the zeros between the entries of dy well enough. Where windows do not
    overlap, a phase is a single tap, and gathering the phases costs 10 to 60 % more.

    In bfloat16 they lose, unless oneDNN runs the convolutions: it takes only those
    without zeros in between, and then gains 1.5 to 4 times at any number of channels.
    """
    overlap = any(map(operator.gt, window.dilated_sizes, window.strides))
    if max(window.strides) == 1 or not overlap:
        return False
    if jnp.finfo(dtype).bits < 32:
        return _is_left_to_onednn(dtype)
    return 16 <= inputs <= 128


def _is_left_to_onednn(dtype) -> bool:
    """Returns whether XLA's flags leave convolutions of this dtype to oneDNN.

    It then runs 1x1 convolutions 2 to 9 times faster than our matrix products.
    """
    return dtype == jnp.bfloat16 and "xla_cpu_use_onednn=true" in os.environ.get(
        "XLA_FLAGS", ""
    )


def _is_empty(window: Window, *operands: jax.Array) -> bool:
    return 0 in window.output_sizes or any(a.size == 0 for a in operands)


def _is_depthwise(inputs: int, window: Window, groups: int) -> bool:
    return groups == inputs > 1 and math.prod(window.sizes) <= _MOST_UNROLLED_TAPS
