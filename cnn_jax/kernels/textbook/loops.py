"""Index ranges of the loops: positions, placements of a window, runs of channels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike

from cnn_jax.geometry import Window

Position = tuple[Any, ...]
"""One integer for each dimension. (`Any`, since mypy takes no starred tuple of integers
inside an index, as in `x[:, *position]`.)"""


def positions(sizes: Sequence[int]) -> list[Position]:
    """Returns all index tuples of an array of these sizes, in row-major order."""
    return list(itertools.product(*map(range, sizes)))


def placements(window: Window) -> Iterator[tuple[Position, Position, Position]]:
    """Yields (o, t, p) for every tap t at every output position o, by equation (1).

    Taps that fall into the padding are left out; the order is row-major in (o, t).
    """
    for o in positions(window.output_sizes):
        for t in positions(window.sizes):
            p = tuple(
                place * stride + tap * step - low
                for place, stride, tap, step, (low, _) in zip(
                    o, window.strides, t, window.dilation, window.padding, strict=True
                )
            )
            if all(0 <= q < n for q, n in zip(p, window.input_sizes, strict=True)):
                yield o, t, p


def channel_runs(w: np.ndarray, groups: int) -> Iterator[tuple[slice, slice]]:
    """Yields each group's slices of input and of output channels."""
    inputs, outputs = w.shape[-2], w.shape[-1] // groups
    for g in range(groups):
        yield (
            slice(g * inputs, (g + 1) * inputs),
            slice(g * outputs, (g + 1) * outputs),
        )


def sum_to_channels(values: np.ndarray) -> np.ndarray:
    """Sums all axes but the last."""
    return values.sum(axis=tuple(range(values.ndim - 1)))


@overload
def float64(array: ArrayLike, /) -> np.ndarray: ...
@overload
def float64(*arrays: ArrayLike) -> tuple[np.ndarray, ...]: ...
def float64(*arrays: ArrayLike) -> np.ndarray | tuple[np.ndarray, ...]:
    """Converts arrays to float64: one to an array, several to a tuple."""
    converted = tuple(np.asarray(array, dtype=np.float64) for array in arrays)
    return converted if len(converted) > 1 else converted[0]
