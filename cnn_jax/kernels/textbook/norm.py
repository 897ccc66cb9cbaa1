"""Normalisation and its gradients, sum by sum."""

from __future__ import annotations

import math

import numpy as np

from cnn_jax.kernels.textbook.loops import (
    float64,
    sum_to_channels,
)


def batch_norm(
    x: np.ndarray, scale: np.ndarray, bias: np.ndarray, *, epsilon: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each channel, y = scale h + bias with h = (x - mean) / sqrt(var + epsilon).

    mean and var are those over all M examples and positions; var is biased (1 / M).
    """
    x = float64(x)
    axes = tuple(range(x.ndim - 1))
    mean, var = x.mean(axis=axes), x.var(axis=axes)
    return batch_norm_inference(x, mean, var, scale, bias, epsilon=epsilon), mean, var


def batch_norm_grad(
    x: np.ndarray,
    scale: np.ndarray,
    dy: np.ndarray,
    dmean: np.ndarray,
    dvar: np.ndarray,
    *,
    epsilon: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cotangents (dx, dscale, dbias).

    With r = 1 / sqrt(var + epsilon) and h = (x - mean) r:

        dbias  = sum dy
        dscale = sum dy h

    x reaches the loss along three ways: directly, through the mean and through the
    variance, where d mean / d x = 1 / M and d var / d x = 2 (x - mean) / M. The
    cotangents that arrive at the two statistics are

        at the mean      dmean - scale r sum dy
        at the variance  dvar  - scale r^2 / 2 sum dy h

    (the mean inside the variance adds nothing, for sum (x - mean) = 0), so that

        dx = scale r (dy - (sum dy) / M - h (sum dy h) / M)
             + dmean / M + 2 (x - mean) dvar / M.
    """
    x, scale, dy, dmean, dvar = float64(x, scale, dy, dmean, dvar)
    axes = tuple(range(x.ndim - 1))
    count = math.prod(x.shape[:-1])
    centred = x - x.mean(axis=axes)
    r = 1.0 / np.sqrt(x.var(axis=axes) + epsilon)
    h = centred * r
    dbias = dy.sum(axis=axes)
    dscale = (dy * h).sum(axis=axes)
    dx = scale * r * (dy - dbias / count - h * dscale / count)
    dx += dmean / count + 2.0 * centred * dvar / count
    return dx, dscale, dbias


def batch_norm_inference(
    x: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    *,
    epsilon: float,
) -> np.ndarray:
    """For each channel, y = scale (x - mean) / sqrt(var + epsilon) + bias."""
    x, mean, var, scale, bias = float64(x, mean, var, scale, bias)
    return scale * (x - mean) / np.sqrt(var + epsilon) + bias


def batch_norm_inference_grad(
    x: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    scale: np.ndarray,
    dy: np.ndarray,
    *,
    epsilon: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The cotangents (dx, dmean, dvar, dscale, dbias).

    With r = 1 / sqrt(var + epsilon) and h = (x - mean) r:

        dx = dy scale r          dmean = -scale r sum dy
        dscale = sum dy h        dvar  = -scale r^2 / 2 sum dy h
        dbias = sum dy
    """
    x, mean, var, scale, dy = float64(x, mean, var, scale, dy)
    r = 1.0 / np.sqrt(var + epsilon)
    dbias = sum_to_channels(dy)
    dscale = sum_to_channels(dy * (x - mean) * r)
    return (
        dy * scale * r,
        -scale * r * dbias,
        -0.5 * scale * r**2 * dscale,
        dscale,
        dbias,
    )
