"""Local response normalisation."""

from __future__ import annotations

import numpy as np

from cnn_jax.kernels.textbook.loops import float64


def local_response_norm(
    x: np.ndarray,
    *,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
) -> np.ndarray:
    """y_i = x_i s_i^-beta, s_i = k + alpha * (sum of x_j^2 over the window of i)."""
    x = float64(x)
    return x * _bracket(x, size, alpha, k) ** -beta


def local_response_norm_grad(
    x: np.ndarray,
    dy: np.ndarray,
    *,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
) -> np.ndarray:
    """dx_i = dy_i s_i^-beta - 2 alpha beta x_i sum over j with i in the window of j.

    Under the sum stands dy_j x_j s_j^(-beta - 1): the derivative of y_j by s_j, but for
    the factor -beta, and s_j depends on x_i by 2 alpha x_i.
    """
    x, dy = float64(x, dy)
    s = _bracket(x, size, alpha, k)
    dx = dy * s**-beta
    for j in range(x.shape[-1]):
        for i in _window(j, size, x.shape[-1]):
            slope = dy[..., j] * x[..., j] * s[..., j] ** (-beta - 1.0)
            dx[..., i] -= 2.0 * alpha * beta * x[..., i] * slope
    return dx


def _bracket(x: np.ndarray, size: int, alpha: float, k: float) -> np.ndarray:
    s = np.full(x.shape, float(k))
    for i in range(x.shape[-1]):
        for j in _window(i, size, x.shape[-1]):
            s[..., i] += alpha * x[..., j] ** 2
    return s


def _window(i: int, size: int, channels: int) -> range:
    return range(max(i - size // 2, 0), min(i + (size - 1) // 2 + 1, channels))
