"""Convolution and its three gradients as loops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnn_jax.geometry import Padding, Window
from cnn_jax.kernels.textbook.loops import (
    channel_runs,
    float64,
    placements,
    sum_to_channels,
)


def conv(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> np.ndarray:
    """y[n, o, c] = b[c] + sum over t, i of x[n, p(o, t), i] w[t, i, c].

    The sum runs over the taps that fall inside the input. With groups, the channels
    are cut into equal runs and run g of c sees run g of i alone.
    """
    x, w = float64(x, w)
    window = _conv_window(x.shape, w.shape, strides, padding, dilation)
    y = np.zeros((x.shape[0], *window.output_sizes, w.shape[-1]))
    for o, t, p in placements(window):
        for i, c in channel_runs(w, groups):
            y[:, *o, c] += x[:, *p, i] @ w[*t, :, c]
    return y if b is None else y + float64(b)


def conv_input_grad(
    dy: np.ndarray,
    w: np.ndarray,
    *,
    input_shape: Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> np.ndarray:
    """dx[n, p, i] = sum over (o, t) with p(o, t) = p and c of dy[n, o, c] w[t, i, c].

    y is linear in x with the coefficients w, so every product of the forward sum
    sends its share back: where y gathered from p, dx scatters to p.
    """
    dy, w = float64(dy, w)
    window = _conv_window(input_shape, w.shape, strides, padding, dilation)
    dx = np.zeros(input_shape)
    for o, t, p in placements(window):
        for i, c in channel_runs(w, groups):
            dx[:, *p, i] += dy[:, *o, c] @ w[*t, :, c].T
    return dx


def conv_filter_grad(
    x: np.ndarray,
    dy: np.ndarray,
    *,
    filter_shape: Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> np.ndarray:
    """dw[t, i, c] = sum over n, o of x[n, p(o, t), i] dy[n, o, c].

    y is linear in w, too: a filter entry is used at every example and position, and
    collects from all of them.
    """
    x, dy = float64(x, dy)
    window = _conv_window(x.shape, filter_shape, strides, padding, dilation)
    dw = np.zeros(filter_shape)
    for o, t, p in placements(window):
        for i, c in channel_runs(dw, groups):
            dw[*t, :, c] += x[:, *p, i].T @ dy[:, *o, c]
    return dw


def conv_bias_grad(dy: np.ndarray) -> np.ndarray:
    """db[c] = sum over n, o of dy[n, o, c]: the bias was added everywhere."""
    return sum_to_channels(float64(dy))


def _conv_window(input_shape, filter_shape, strides, padding, dilation) -> Window:
    return Window.resolve(
        tuple(input_shape)[1:-1],
        tuple(filter_shape)[:-2],
        strides=strides,
        padding=padding,
        dilation=dilation,
    )
