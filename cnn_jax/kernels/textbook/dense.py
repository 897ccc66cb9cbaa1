"""The dense layer and its gradients."""

from __future__ import annotations

import numpy as np

from cnn_jax.kernels.textbook.loops import (
    float64,
)


def dense(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """y[..., c] = b[c] + sum over i of x[..., i] w[i, c]."""
    x, w = float64(x, w)
    y = x @ w
    return y if b is None else y + float64(b)


def dense_grad(
    x: np.ndarray, w: np.ndarray, dy: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """With all leading axes as one: dx = dy w^T, dw = x^T dy, db = sum of dy."""
    x, w, dy = float64(x, w, dy)
    rows, dy_rows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return dy @ w.T, rows.T @ dy_rows, dy_rows.sum(axis=0)
