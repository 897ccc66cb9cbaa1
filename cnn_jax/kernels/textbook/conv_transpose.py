"""Transposed convolution and its gradient as loops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cnn_jax.geometry import (
    Padding,
    explicit_transposed_padding,
    per_dimension,
    transposed_output_size,
)
from cnn_jax.kernels.textbook.loops import (
    Position,
    channel_runs,
    float64,
    positions,
    sum_to_channels,
)


def conv_transpose(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> np.ndarray:
    """y[n, q(p, t), c] collects x[n, p, i] w[t, i, c] over p, t and i, plus b[c].

    Every input position p scatters its product with each tap t to

        q(p, t) = p s + low - t d

    where `low` is the padding in front of the spread input. What lands outside the
    output is lost.
    """
    x, w = float64(x, w)
    geometry = _geometry(x.shape, w.shape, strides, padding, dilation)
    y = np.zeros((x.shape[0], *_output_sizes(geometry), w.shape[-1]))
    for p, t, q in _landings(geometry):
        for i, c in channel_runs(w, groups):
            y[:, *q, c] += x[:, *p, i] @ w[*t, :, c]
    return y if b is None else y + float64(b)


def conv_transpose_grad(
    x: np.ndarray,
    w: np.ndarray,
    dy: np.ndarray,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (dx, dw, db): every product that was scattered collects dy from there.

    dx[n, p, i] = sum over t, c of dy[n, q(p, t), c] w[t, i, c],
    dw[t, i, c] = sum over n, p of dy[n, q(p, t), c] x[n, p, i],
    db[c] = sum over n, q of dy[n, q, c].
    """
    x, w, dy = float64(x, w, dy)
    dx, dw = np.zeros(x.shape), np.zeros(w.shape)
    for p, t, q in _landings(_geometry(x.shape, w.shape, strides, padding, dilation)):
        for i, c in channel_runs(w, groups):
            dx[:, *p, i] += dy[:, *q, c] @ w[*t, :, c].T
            dw[*t, :, c] += x[:, *p, i].T @ dy[:, *q, c]
    return dx, dw, sum_to_channels(dy)


def _geometry(input_shape, filter_shape, strides, padding, dilation):
    """Returns (input size, window, stride, padding, dilation) for each dimension."""
    sizes, window = input_shape[1:-1], filter_shape[:-2]
    strides = per_dimension(strides, len(sizes), "strides")
    dilation = per_dimension(dilation, len(sizes), "dilation")
    pairs = explicit_transposed_padding(padding, window, strides, dilation)
    return list(zip(sizes, window, strides, pairs, dilation, strict=True))


def _output_sizes(geometry) -> list[int]:
    return [transposed_output_size(*dimension) for dimension in geometry]


def _landings(geometry) -> Iterator[tuple[Position, Position, Position]]:
    """Yields (p, t, q): input position, tap, and the position in y that they add to."""
    sizes, window, strides, pairs, dilation = zip(*geometry, strict=True)
    outputs = _output_sizes(geometry)
    for p in positions(sizes):
        for t in positions(window):
            q = tuple(
                place * stride + low - tap * step
                for place, stride, (low, _), tap, step in zip(
                    p, strides, pairs, t, dilation, strict=True
                )
            )
            if all(0 <= place < out for place, out in zip(q, outputs, strict=True)):
                yield p, t, q
