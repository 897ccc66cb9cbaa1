"""Activations and their gradients, elementwise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cnn_jax.kernels.textbook.loops import (
    float64,
)


def named_like(activation: Callable) -> tuple[Callable, Callable]:
    """Returns the function of this name on this page, and its gradient."""
    name = activation.__name__
    return globals()[name], globals()[f"{name}_grad"]


def relu(x: np.ndarray) -> np.ndarray:
    """Elementwise y = max(x, 0)."""
    return np.maximum(float64(x), 0.0)


def relu_grad(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Passes dx = dy where x > 0, else 0: the derivative at the corner is 0."""
    x, dy = float64(x, dy)
    return np.where(x > 0, dy, 0.0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Elementwise y = 1 / (1 + exp(-x)), with exponents that cannot overflow."""
    x = float64(x)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def sigmoid_grad(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Elementwise dx = dy y (1 - y), and 1 - y is the sigmoid of -x."""
    return float64(dy) * sigmoid(x) * sigmoid(-float64(x))


def silu(x: np.ndarray) -> np.ndarray:
    """Elementwise y = x sigmoid(x)."""
    return float64(x) * sigmoid(x)


def silu_grad(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Elementwise dx = dy (f + x f (1 - f)) with f = sigmoid(x): the product rule."""
    x, dy = float64(x, dy)
    return dy * sigmoid(x) * (1.0 + x * sigmoid(-x))
