"""The general convolution: `conv` of a spread input, in any order of the axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnn_jax.geometry import (
    GeneralPadding,
    explicit_padding,
    same_padding,
    spread_size,
)
from cnn_jax.kernels.textbook.conv import conv, conv_filter_grad, conv_input_grad
from cnn_jax.kernels.textbook.loops import float64

_LETTERS = "DHW"


def conv_general_dilated(
    lhs: np.ndarray,
    rhs: np.ndarray,
    window_strides: Sequence[int],
    padding: GeneralPadding,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Sequence[str] | None = None,
    feature_group_count: int = 1,
) -> np.ndarray:
    """Puts zeros between the entries of `lhs` and convolves it.

    A letter of `dimension_numbers` names an axis: N examples, C channels, I and O those
    of the filter, any other a spatial one. Spatial axes keep the filter's order.
    """
    lhs, rhs = float64(lhs, rhs)
    from_lhs, from_rhs, to_out = _axes(lhs.ndim, dimension_numbers)
    x, w = lhs.transpose(from_lhs), rhs.transpose(from_rhs)
    u, _ = _spread(x, lhs_dilation)
    options = _options(u, w, window_strides, padding, rhs_dilation, feature_group_count)
    return conv(u, w, **options).transpose(np.argsort(to_out))


def conv_general_dilated_grad(
    lhs: np.ndarray,
    rhs: np.ndarray,
    dy: np.ndarray,
    window_strides: Sequence[int],
    padding: GeneralPadding,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Sequence[str] | None = None,
    feature_group_count: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (dlhs, drhs): those of `conv`, dlhs read where entries of `lhs` stood."""
    lhs, rhs, dy = float64(lhs, rhs, dy)
    from_lhs, from_rhs, to_out = _axes(lhs.ndim, dimension_numbers)
    x, w, dy = lhs.transpose(from_lhs), rhs.transpose(from_rhs), dy.transpose(to_out)
    u, places = _spread(x, lhs_dilation)
    options = _options(u, w, window_strides, padding, rhs_dilation, feature_group_count)
    dx = conv_input_grad(dy, w, input_shape=u.shape, **options)[places]
    dw = conv_filter_grad(u, dy, filter_shape=w.shape, **options)
    return dx.transpose(np.argsort(from_lhs)), dw.transpose(np.argsort(from_rhs))


def _axes(rank, dimension_numbers):
    """Returns the axes of lhs, rhs and the result in the order NHWC and HWIO."""
    letters = _LETTERS[-(rank - 2) :]
    lhs, rhs, out = dimension_numbers or (
        f"NC{letters}",
        f"OI{letters}",
        f"NC{letters}",
    )
    spatial = [letter for letter in rhs if letter not in "IO"]
    return (
        [lhs.index(letter) for letter in ("N", *spatial, "C")],
        [rhs.index(letter) for letter in (*spatial, "I", "O")],
        [out.index(letter) for letter in ("N", *spatial, "C")],
    )


def _spread(x, lhs_dilation):
    """Returns x with zeros between its entries, and where the entries went."""
    steps = lhs_dilation or (1,) * (x.ndim - 2)
    sizes = map(spread_size, x.shape[1:-1], steps)
    u = np.zeros((x.shape[0], *sizes, x.shape[-1]))
    places = (slice(None), *(slice(None, None, step) for step in steps), slice(None))
    u[places] = x
    return u, places


def _options(u, w, strides, padding, dilation, groups):
    dilation = dilation or (1,) * (u.ndim - 2)
    sizes, window = u.shape[1:-1], w.shape[:-2]
    if padding == "SAME_LOWER":
        padding = tuple(
            same_padding(*dimension)[::-1]
            for dimension in zip(sizes, window, strides, dilation, strict=True)
        )
    return {
        "strides": strides,
        "padding": explicit_padding(padding, sizes, window, strides, dilation),
        "dilation": dilation,
        "groups": groups,
    }
