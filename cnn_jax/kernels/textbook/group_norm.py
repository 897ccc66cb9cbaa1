"""Group normalisation and its gradients, set by set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from cnn_jax.kernels.textbook.loops import float64, positions, sum_to_channels


def group_norm(
    x: np.ndarray,
    scale: np.ndarray | None,
    bias: np.ndarray | None,
    *,
    num_groups: int,
    epsilon: float,
) -> np.ndarray:
    """In each set, y = scale h + bias with h = (x - mean) / sqrt(var + epsilon).

    A set is what shares mean and var: one example's entries at all positions in the
    channels of one group. var is biased.
    """
    return normalize(x, scale, bias, _groups(x, num_groups), epsilon)


def group_norm_grad(
    x: np.ndarray,
    scale: np.ndarray | None,
    dy: np.ndarray,
    *,
    num_groups: int,
    epsilon: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the cotangents (dx, dscale, dbias).

    With r = 1 / sqrt(var + epsilon) and h = (x - mean) r, over all examples and
    positions

        dbias  = sum dy
        dscale = sum dy h

    In a set of M entries that share their statistics, write g = scale dy, the cotangent
    of h. What arrives at the two statistics is

        at the mean      -r sum g
        at the variance  -r^2 / 2 sum g h

    and d mean / d x = 1 / M, d var / d x = 2 (x - mean) / M = 2 h / (r M), so that

        dx = r (g - (sum g) / M - h (sum g h) / M).
    """
    return gradients(x, scale, dy, _groups(x, num_groups), epsilon)


def _groups(x: np.ndarray, num_groups: int) -> Iterator[tuple[Any, ...]]:
    """Yields the index of each example's groups."""
    size = x.shape[-1] // num_groups
    for n, g in positions((x.shape[0], num_groups)):
        yield n, ..., slice(g * size, (g + 1) * size)


def normalize(
    x: np.ndarray,
    scale: np.ndarray | None,
    bias: np.ndarray | None,
    sets: Iterable[tuple[Any, ...]],
    epsilon: float,
) -> np.ndarray:
    """Returns scale h + bias, with h normalised over each set of indices."""
    h, _ = _standardised(float64(x), sets, epsilon)
    h *= 1.0 if scale is None else float64(scale)
    return h + (0.0 if bias is None else float64(bias))


def gradients(
    x: np.ndarray,
    scale: np.ndarray | None,
    dy: np.ndarray,
    sets: Iterable[tuple[Any, ...]],
    epsilon: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the cotangents (dx, dscale, dbias) of `normalize`."""
    x, dy = float64(x, dy)
    sets = tuple(sets)
    h, r = _standardised(x, sets, epsilon)
    g = dy * (1.0 if scale is None else float64(scale))
    dx = np.empty(x.shape)
    for s in sets:
        dx[s] = r[s] * (g[s] - g[s].mean() - h[s] * (g[s] * h[s]).mean())
    return dx, sum_to_channels(dy * h), sum_to_channels(dy)


def _standardised(x, sets, epsilon):
    h, r = np.empty(x.shape), np.empty(x.shape)
    for s in sets:
        r[s] = 1.0 / np.sqrt(x[s].var() + epsilon)
        h[s] = (x[s] - x[s].mean()) * r[s]
    return h, r
