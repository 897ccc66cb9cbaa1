"""Average pooling to a given size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from cnn_jax.geometry import per_dimension
from cnn_jax.kernels.textbook.loops import Position, float64, positions


def adaptive_avg_pool(x: np.ndarray, output_size: int | Sequence[int]) -> np.ndarray:
    """y[n, o, c] = mean of x[n, p, c] over the positions p of box o."""
    x = float64(x)
    outputs = per_dimension(output_size, x.ndim - 2, "output_size")
    y = np.zeros((x.shape[0], *outputs, x.shape[-1]))
    for o in positions(outputs):
        box = list(_box(o, x.shape[1:-1], outputs))
        for p in box:
            y[:, *o] += x[:, *p] / len(box)
    return y


def adaptive_avg_pool_grad(dy: np.ndarray, *, input_shape: Sequence[int]) -> np.ndarray:
    """dx[n, p, c] = sum of dy[n, o, c] / size of box o, over boxes with p inside."""
    dy = float64(dy)
    dx = np.zeros(input_shape)
    for o in positions(dy.shape[1:-1]):
        box = list(_box(o, input_shape[1:-1], dy.shape[1:-1]))
        for p in box:
            dx[:, *p] += dy[:, *o] / len(box)
    return dx


def _box(
    o: Position, inputs: Sequence[int], outputs: Sequence[int]
) -> Iterator[Position]:
    """Returns the positions p with floor(o n / m) <= p < ceil((o + 1) n / m)."""
    first = [i * n // m for i, n, m in zip(o, inputs, outputs, strict=True)]
    sizes = [
        math.ceil((i + 1) * n / m) - start
        for i, n, m, start in zip(o, inputs, outputs, first, strict=True)
    ]
    for offset in positions(sizes):
        yield tuple(start + step for start, step in zip(first, offset, strict=True))
