"""Pooling and its gradients as loops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cnn_jax.geometry import Padding, Window
from cnn_jax.kernels.textbook.loops import (
    float64,
    placements,
    positions,
)


def max_pool(
    x: np.ndarray,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
) -> np.ndarray:
    """y[n, o, c] = max over t of x[n, p(o, t), c], where padding is -inf.

    NaN wins over every number. Nothing but padding gives -inf.
    """
    x = float64(x)
    geometry = _pool_window(x.shape, window, strides, padding, dilation)
    y = np.full((x.shape[0], *geometry.output_sizes, x.shape[-1]), -np.inf)
    for o, _, p in placements(geometry):
        y[:, *o] = np.maximum(y[:, *o], x[:, *p])
    return y


def max_pool_grad(
    x: np.ndarray,
    dy: np.ndarray,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
) -> np.ndarray:
    """dx[n, p, c] = sum of dy[n, o, c] over the o whose window selected p.

    A window selects by going through its taps in row-major order, padding included as
    -inf, and moving on from the selected value `v` to the next one `u` unless v >= u.
    Of equal maxima it therefore keeps the first. (What this says of NaN is XLA's rule:
    no comparison with NaN holds, so a NaN is selected, and left again for the value
    behind it.) What a window in the padding selected is lost.
    """
    x, dy = float64(x, dy)
    geometry = _pool_window(x.shape, window, strides, padding, dilation)
    dx = np.zeros(x.shape)
    inside = {(o, t): p for o, t, p in placements(geometry)}
    taps = positions(geometry.sizes)
    for o in positions(geometry.output_sizes):
        padding_value = np.full_like(dy[:, *o], -np.inf)
        values = [
            x[:, *inside[o, t]] if (o, t) in inside else padding_value for t in taps
        ]
        best, selected = values[0], np.zeros(values[0].shape, int)
        for number, value in enumerate(values):
            moves_on = ~(best >= value)
            selected = np.where(moves_on, number, selected)
            best = np.where(moves_on, value, best)
        for number, t in enumerate(taps):
            if (o, t) in inside:
                dx[:, *inside[o, t]] += np.where(selected == number, dy[:, *o], 0.0)
    return dx


def avg_pool(
    x: np.ndarray,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> np.ndarray:
    """y[n, o, c] = 1 / k[o] times the sum over t of x[n, p(o, t), c].

    k[o] is the number of taps, or of those inside the input if `count_include_pad` is
    false (and then 1 where there are none).
    """
    x = float64(x)
    geometry = _pool_window(x.shape, window, strides, padding, 1)
    y = np.zeros((x.shape[0], *geometry.output_sizes, x.shape[-1]))
    for o, _, p in placements(geometry):
        y[:, *o] += x[:, *p]
    return y / _counts(geometry, count_include_pad)


def avg_pool_grad(
    dy: np.ndarray,
    window: int | Sequence[int],
    *,
    input_shape: Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> np.ndarray:
    """dx[n, p, c] = sum over the (o, t) with p(o, t) = p of dy[n, o, c] / k[o]."""
    geometry = _pool_window(input_shape, window, strides, padding, 1)
    share = float64(dy) / _counts(geometry, count_include_pad)
    dx = np.zeros(input_shape)
    for o, _, p in placements(geometry):
        dx[:, *p] += share[:, *o]
    return dx


def global_avg_pool(x: np.ndarray) -> np.ndarray:
    """y[n, c] = mean over p of x[n, p, c]."""
    x = float64(x)
    return x.mean(axis=tuple(range(1, x.ndim - 1)))


def global_avg_pool_grad(dy: np.ndarray, *, input_shape: Sequence[int]) -> np.ndarray:
    """dx[n, p, c] = dy[n, c] / number of positions."""
    n, *sizes, c = input_shape
    share = float64(dy) / math.prod(sizes)
    return np.broadcast_to(share.reshape(n, *(1 for _ in sizes), c), input_shape)


def _pool_window(input_shape, window, strides, padding, dilation) -> Window:
    return Window.resolve(
        tuple(input_shape)[1:-1],
        window,
        strides=window if strides is None else strides,
        padding=padding,
        dilation=dilation,
    )


def _counts(window: Window, count_include_pad: bool) -> np.ndarray:
    """Returns the divisors k[o] of average pooling, with an axis for the channels."""
    if count_include_pad:
        return np.full((*window.output_sizes, 1), float(math.prod(window.sizes)))
    counts = np.zeros((*window.output_sizes, 1))
    for o, _, _ in placements(window):
        counts[o] += 1.0
    return np.maximum(counts, 1.0)
