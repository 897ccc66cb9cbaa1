"""Gradients of the ungrouped convolution, in the shape of forward convolutions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.geometry import Window
from cnn_jax.kernels import windowed
from cnn_jax.kernels.platforms import xla

_LETTERS = "DHW"


def conv_input_grad(
    dy: jax.Array, w: jax.Array, window: Window, precision: lax.PrecisionLike
) -> jax.Array:
    """Correlates dy, spread by the stride, with the flipped and transposed filters."""
    return xla.conv_transpose(dy, _flipped(w), window, 1, precision)


def conv_filter_grad(
    x: jax.Array, dy: jax.Array, window: Window, precision: lax.PrecisionLike
) -> jax.Array:
    """Correlates x with dy over the batch, everything transposed beforehand.

    As a lone operation this takes the time of `xla.conv_filter_grad`, where XLA inserts
    the same transposes. Inside a loop (`lax.scan` over steps) XLA does not, and falls
    back to a naive convolution: there this form is 65 times faster.
    """
    *spatial, last = range(1, x.ndim)
    letters = _LETTERS[-window.rank :]
    dw = windowed.conv_general_dilated(
        jnp.transpose(x, (last, *spatial, 0)),
        jnp.transpose(dy, (*spatial, 0, last)),
        window_strides=window.dilation,
        padding=window.filter_grad_padding,
        rhs_dilation=window.strides,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        precision=precision,
    )
    return jnp.moveaxis(dw, 0, -2)


def strided_input_grad(
    dy: jax.Array, w: jax.Array, window: Window, precision: lax.PrecisionLike
) -> jax.Array:
    """Returns dL/dx phase by phase, without the zeros between the entries of dy.

    Write a position in the padded input as s j + p. Only the taps k with d k = s q + p
    reach it, from window j - q: for each phase p a convolution of dy at stride 1, with
    every `s / gcd(s, d)`-th tap. The phases' results interleave.
    """
    blocks = [
        max(-(-(low + size) // stride), 1)
        for (low, _), size, stride in zip(
            window.padding, window.input_sizes, window.strides, strict=True
        )
    ]
    zero = np.zeros((), dy.dtype)
    total: jax.Array | None = None
    for phase in np.ndindex(*window.strides):
        taps = [
            [k for k in range(size) if k * d % stride == p]
            for size, d, stride, p in zip(
                window.sizes, window.dilation, window.strides, phase, strict=True
            )
        ]
        if not all(taps):
            continue
        part = _phase(dy, w, window, taps, blocks, precision)
        places = [
            (p, stride - 1 - p, stride - 1)
            for p, stride in zip(phase, window.strides, strict=True)
        ]
        part = lax.pad(part, zero, ((0, 0, 0), *places, (0, 0, 0)))
        total = part if total is None else total + part
    assert total is not None  # some tap reaches some phase
    crops = [
        (-low, low + size - block * stride, 0)
        for (low, _), size, block, stride in zip(
            window.padding, window.input_sizes, blocks, window.strides, strict=True
        )
    ]
    return lax.pad(total, zero, ((0, 0, 0), *crops, (0, 0, 0)))


def _phase(dy, w, window, taps, blocks, precision):
    padding, dilation = [], []
    for axis, (ks, block) in enumerate(zip(taps, blocks, strict=True)):
        stride, d = window.strides[axis], window.dilation[axis]
        step = ks[1] - ks[0] if len(ks) > 1 else 1
        w = lax.slice_in_dim(w, ks[0], ks[-1] + 1, step, axis=axis)
        nearest, farthest = ks[0] * d // stride, ks[-1] * d // stride
        padding.append((farthest, block - window.output_sizes[axis] - nearest))
        dilation.append(step * d // stride if len(ks) > 1 else 1)
    shifted = Window(
        input_sizes=window.output_sizes,
        sizes=tuple(map(len, taps)),
        strides=(1,) * window.rank,
        padding=tuple(padding),
        dilation=tuple(dilation),
    )
    return xla.conv(dy, _flipped(w), shifted, 1, precision)


def _flipped(w: jax.Array) -> jax.Array:
    """Returns the filters of the input gradient, behind an optimization barrier.

    XLA would fold the flip into the convolution, for which it then calls none of its
    fast libraries: with oneDNN in bfloat16 that costs a factor of 2 to 10.
    """
    return lax.optimization_barrier(xla.transpose_filter(w, 1))
