"""The operations in plain lax form, left to XLA.

Every convolution here, the gradients included, is one `lax.conv_general_dilated`, but
for the crops and zeros of `kernels.windowed`.
Layouts are NHWC for arrays and HWIO for filters, in one to three dimensions.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.geometry import Window
from cnn_jax.kernels import windowed

_LETTERS = "DHW"


def conv(
    x: jax.Array,
    w: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Correlates `x` with the filters `w`."""
    return _gather(x, w, "IO", window, groups, precision)


def conv_input_grad(
    dy: jax.Array,
    w: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Correlates dy, spread by the stride, with the flipped and transposed filters."""
    w, order = _transposed(w, groups)
    return _scatter(dy, w, order, window, groups, precision)


def conv_transpose(
    x: jax.Array,
    w: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Correlates `x`, spread by the stride, with `w`: from outputs to inputs."""
    return _scatter(x, w, "IO", window, groups, precision)


def conv_transpose_input_grad(
    dy: jax.Array,
    w: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Correlates dy with the flipped and transposed filters: from inputs to outputs."""
    w, order = _transposed(w, groups)
    return _gather(dy, w, order, window, groups, precision)


def _gather(x, w, order, window, groups, precision):
    spatial = _LETTERS[-window.rank :]
    return windowed.conv_general_dilated(
        x,
        w,
        window_strides=window.strides,
        padding=window.padding,
        rhs_dilation=window.dilation,
        dimension_numbers=(f"N{spatial}C", f"{spatial}{order}", f"N{spatial}C"),
        feature_group_count=groups,
        precision=precision,
    )


def _scatter(x, w, order, window, groups, precision):
    if 0 in window.output_sizes:
        outputs = w.shape[-2:][order.index("O")]
        return _zero_gradient(x, (len(x), *window.input_sizes, outputs))
    spatial = _LETTERS[-window.rank :]
    return windowed.conv_general_dilated(
        x,
        w,
        window_strides=(1,) * window.rank,
        padding=window.input_grad_padding,
        lhs_dilation=window.strides,
        rhs_dilation=window.dilation,
        dimension_numbers=(f"N{spatial}C", f"{spatial}{order}", f"N{spatial}C"),
        feature_group_count=groups,
        precision=precision,
    )


def _transposed(w, groups):
    """Returns the transposed filters and the order of their last two axes.

    Only flipped where that is enough: a convolution reads its filter in any order at no
    cost, while moving 512 x 512 channels takes a TPU as long as the product.
    """
    if groups == 1:
        return jnp.flip(w, axis=tuple(range(w.ndim - 2))), "OI"
    return transpose_filter(w, groups), "IO"


def conv_filter_grad(
    x: jax.Array,
    dy: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Correlates `x` with dy, spread by the stride, summing over the batch.

    The batch takes the place of the contracted channels, so the dimension numbers read
    x as "channels are the batch" and dy as "examples are the input features".
    """
    return _correlate_over_batch(
        x,
        dy,
        window,
        groups,
        precision,
        padding=window.filter_grad_padding,
        rhs_dilation=window.strides,
    )


def conv_transpose_filter_grad(
    x: jax.Array,
    dy: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Correlates `x`, spread by the stride, with dy, summing over the batch."""
    return _correlate_over_batch(
        x,
        dy,
        window,
        groups,
        precision,
        padding=window.input_grad_padding,
        lhs_dilation=window.strides,
    )


def _correlate_over_batch(x, dy, window, groups, precision, **spread):
    if 0 in window.output_sizes or len(x) == 0:
        shape = (*window.sizes, x.shape[-1] // groups, dy.shape[-1])
        return _zero_gradient(dy, shape)
    spatial = _LETTERS[-window.rank :]
    return windowed.conv_general_dilated(
        x,
        dy,
        window_strides=window.dilation,
        dimension_numbers=(f"C{spatial}N", f"I{spatial}O", f"{spatial}NC"),
        batch_group_count=groups,
        precision=precision,
        **spread,
    )


def transpose_filter(w: jax.Array, groups: int) -> jax.Array:
    """Flips every spatial axis and swaps inputs with outputs, group by group.

    Applied twice, it is the identity.

    Args:
      w: Filters `(*spatial, inputs / groups, outputs)`.
      groups: The number of groups.

    Returns:
      Filters `(*spatial, outputs / groups, inputs)`.
    """
    *spatial, inputs, outputs = w.shape
    w = jnp.flip(w, axis=tuple(range(len(spatial))))
    w = w.reshape(*spatial, inputs, groups, outputs // groups)
    w = jnp.moveaxis(w, -1, -3)  # (*spatial, outputs / groups, inputs / groups, groups)
    w = jnp.swapaxes(w, -1, -2)
    return w.reshape(*spatial, outputs // groups, groups * inputs)


def _zero_gradient(dy, shape):
    """Returns the gradient where dy is empty: zeros, varying over dy's manual axes.

    XLA accepts no convolution whose window has no size.
    """
    return jnp.broadcast_to(jnp.sum(dy), shape)


def lowest_value(dtype: jax.typing.DTypeLike) -> np.ndarray:
    """Returns the value that no entry of `dtype` is below: what max-pool pads with.

    A NumPy scalar, since XLA's windowed reductions recognise a maximum, and so its
    derivative, only when the initial value is concrete.
    """
    if jnp.issubdtype(dtype, jnp.floating):
        return np.asarray(-np.inf, dtype)
    return np.asarray(jnp.iinfo(dtype).min, dtype)


def max_pool(x: jax.Array, window: Window) -> jax.Array:
    """Returns the maximum under every placement of the window."""
    return windowed.reduce_window(x, lowest_value(x.dtype), lax.max, window)


def max_pool_grad(x: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """Sends each entry of dy to its window's first maximum (select and scatter)."""
    _, pullback = jax.vjp(lambda x: max_pool(x, window), x)
    return pullback(dy)[0]


def sum_pool(x: jax.Array, window: Window) -> jax.Array:
    """Returns the sum under every placement of the window."""
    return windowed.reduce_window(x, np.zeros((), x.dtype), lax.add, window)


def sum_pool_grad(dy: jax.Array, window: Window) -> jax.Array:
    """Adds each entry of dy to every input position its window covered."""
    dy, padding = windowed.crop(dy, window.input_grad_padding, window.strides)
    zero = np.zeros((), dy.dtype)
    gaps = [
        (*pair, stride - 1)
        for pair, stride in zip(padding, window.strides, strict=True)
    ]
    dy = lax.pad(dy, zero, ((0, 0, 0), *gaps, (0, 0, 0)))
    return lax.reduce_window(
        dy,
        zero,
        lax.add,
        window_dimensions=(1, *window.sizes, 1),
        window_strides=(1,) * dy.ndim,
        padding=((0, 0),) * dy.ndim,
        window_dilation=(1, *window.dilation, 1),
    )
