"""Activations and their gradients, elementwise."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from cnn_jax.kernels.textbook.loops import (
    float64,
)


def named_like(
    activation: Callable[..., object],
) -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
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


def relu6(x: np.ndarray) -> np.ndarray:
    """Elementwise y = min(max(x, 0), 6)."""
    return np.minimum(np.maximum(float64(x), 0.0), 6.0)


def relu6_grad(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Passes dx = dy where 0 < x < 6, else 0: the derivative at both corners is 0."""
    x, dy = float64(x, dy)
    return np.where((x > 0) & (x < 6), dy, 0.0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Elementwise y = 1 / (1 + exp(-x)), with exponents that cannot overflow."""
    x = float64(x)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def sigmoid_grad(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Elementwise dx = dy y (1 - y), and 1 - y is the sigmoid of -x."""
    return float64(dy) * sigmoid(x) * sigmoid(-float64(x))


def hard_sigmoid(x: np.ndarray) -> np.ndarray:
    """Elementwise y = relu6(x + 3) / 6."""
    return relu6(float64(x) + 3.0) / 6.0


def hard_sigmoid_grad(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Elementwise dx = dy / 6 where -3 < x < 3, else 0: the chain rule."""
    return relu6_grad(float64(x) + 3.0, float64(dy) / 6.0)


def silu(x: np.ndarray) -> np.ndarray:
    """Elementwise y = x sigmoid(x)."""
    return float64(x) * sigmoid(x)


def silu_grad(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Elementwise dx = dy (f + x f (1 - f)) with f = sigmoid(x): the product rule."""
    x, dy = float64(x, dy)
    return dy * sigmoid(x) * (1.0 + x * sigmoid(-x))


def hard_swish(x: np.ndarray) -> np.ndarray:
    """Elementwise y = x hard_sigmoid(x)."""
    return float64(x) * hard_sigmoid(x)


def hard_swish_grad(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Elementwise dx = dy h + x dy h' with h = hard_sigmoid(x): the product rule."""
    x, dy = float64(x, dy)
    return dy * hard_sigmoid(x) + hard_sigmoid_grad(x, x * dy)


def gelu(x: np.ndarray, *, approximate: bool = True) -> np.ndarray:
    """Elementwise y = x F with F = (1 + erf(x / sqrt(2))) / 2, the normal distribution.

    The approximation is F = (1 + tanh u) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3).
    """
    x = float64(x)
    if approximate:
        return x * 0.5 * (1.0 + np.tanh(_tanh_argument(x)))
    return x * 0.5 * (1.0 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2.0)))


def gelu_grad(x: np.ndarray, dy: np.ndarray, *, approximate: bool = True) -> np.ndarray:
    """Elementwise dx = dy (F + x F'): the product rule.

    F' = exp(-x^2 / 2) / sqrt(2 pi)                              the normal density
    F' = (1 - tanh(u)^2) / 2 sqrt(2 / pi) (1 + 3 * 0.044715 x^2)    approximate
    """
    x, dy = float64(x, dy)
    if approximate:
        tanh = np.tanh(_tanh_argument(x))
        slope = math.sqrt(2.0 / math.pi) * (1.0 + 3.0 * 0.044715 * x**2)
        return dy * (0.5 * (1.0 + tanh) + x * 0.5 * (1.0 - tanh**2) * slope)
    distribution = 0.5 * (1.0 + np.vectorize(math.erf, otypes=[float])(x / 2.0**0.5))
    return dy * (distribution + x * np.exp(-(x**2) / 2.0) / math.sqrt(2.0 * math.pi))


def _tanh_argument(x: np.ndarray) -> np.ndarray:
    return math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
