"""Dropout of entries, examples, channels and squares, for a given mask."""

from __future__ import annotations

import numpy as np

from cnn_jax.kernels.textbook.loops import (
    float64,
)


def dropout(x: np.ndarray, mask: np.ndarray, rate: float) -> np.ndarray:
    """Elementwise y = x mask / (1 - rate): the mean of y over the masks is x.

    The mask stands where the kernel has a key: 1 with probability 1 - rate, else 0.
    """
    return float64(x) * float64(mask) / (1.0 - rate)


def dropout_grad(dy: np.ndarray, mask: np.ndarray, rate: float) -> np.ndarray:
    """Elementwise dx = dy mask / (1 - rate): the map is linear and diagonal."""
    return dropout(dy, mask, rate)


def stochastic_depth(x: np.ndarray, mask: np.ndarray, rate: float) -> np.ndarray:
    """y[n] = x[n] mask[n] / (1 - rate): dropout of whole examples."""
    mask = float64(mask)
    return dropout(x, mask.reshape(-1, *(1 for _ in np.shape(x)[1:])), rate)


def stochastic_depth_grad(dy: np.ndarray, mask: np.ndarray, rate: float) -> np.ndarray:
    """dx[n] = dy[n] mask[n] / (1 - rate)."""
    return stochastic_depth(dy, mask, rate)


def spatial_dropout(x: np.ndarray, mask: np.ndarray, rate: float) -> np.ndarray:
    """y[n, ..., c] = x[n, ..., c] mask[n, c] / (1 - rate): dropout of channels."""
    mask = float64(mask)
    spatial = (1 for _ in np.shape(x)[1:-1])
    return dropout(x, mask.reshape(mask.shape[0], *spatial, mask.shape[-1]), rate)


def spatial_dropout_grad(dy: np.ndarray, mask: np.ndarray, rate: float) -> np.ndarray:
    """dx[n, ..., c] = dy[n, ..., c] mask[n, c] / (1 - rate)."""
    return spatial_dropout(dy, mask, rate)


def drop_block(
    x: np.ndarray, mask: np.ndarray, rate: float, *, block_size: int
) -> np.ndarray:
    """y[n] = x[n] mask[n] entries / kept entries: each example keeps its mean.

    `rate` and `block_size` have done their part: they are in the mask, zero in squares.
    """
    x, mask = float64(x), float64(mask)
    y = np.zeros(x.shape)
    if rate == 0:
        return x
    for n in range(len(x)):
        kept = mask[n].sum()
        if kept:
            y[n] = x[n] * mask[n] * mask[n].size / kept
    return y


def drop_block_grad(
    dy: np.ndarray, mask: np.ndarray, rate: float, *, block_size: int
) -> np.ndarray:
    """dx[n] = dy[n] mask[n] entries / kept entries."""
    return drop_block(dy, mask, rate, block_size=block_size)
