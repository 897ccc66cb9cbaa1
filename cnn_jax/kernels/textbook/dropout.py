"""Dropout and stochastic depth for a given mask."""

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
