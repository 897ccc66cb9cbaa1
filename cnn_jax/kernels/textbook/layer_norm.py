"""Layer normalisation and its gradients, position by position."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cnn_jax.kernels.textbook.group_norm import gradients, normalize
from cnn_jax.kernels.textbook.loops import positions


def layer_norm(
    x: np.ndarray,
    scale: np.ndarray | None,
    bias: np.ndarray | None,
    *,
    epsilon: float,
) -> np.ndarray:
    """At each position, y = scale h + bias with h = (x - mean) / sqrt(var + epsilon).

    mean and var are those over the channels; var is biased.
    """
    return normalize(x, scale, bias, _rows(x), epsilon)


def layer_norm_grad(
    x: np.ndarray, scale: np.ndarray | None, dy: np.ndarray, *, epsilon: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the cotangents (dx, dscale, dbias); see `group_norm_grad`."""
    return gradients(x, scale, dy, _rows(x), epsilon)


def _rows(x: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """Yields the index of each position's channels."""
    yield from positions(x.shape[:-1])
