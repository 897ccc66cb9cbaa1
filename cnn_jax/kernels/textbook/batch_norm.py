"""Batch normalisation and its gradients, sum by sum."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from cnn_jax.geometry import MaxPool
from cnn_jax.kernels.textbook.activation import named_like
from cnn_jax.kernels.textbook.loops import (
    float64,
    sum_to_channels,
)
from cnn_jax.kernels.textbook.pool import max_pool, max_pool_grad


def batch_norm(
    x: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    *,
    epsilon: float,
    activation: Callable[..., object] | None = None,
    pool: MaxPool | None = None,
    shift: np.ndarray | float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each channel, z = scale h + bias with h = (x - mean) / sqrt(var + epsilon).

    mean and var are those over all M examples and positions; var is biased (1 / M).
    With d = x - shift they come out of one pass, whatever the shift:

        mean = shift + (sum d) / M
        var  = (sum d^2) / M - ((sum d) / M)^2

    y is z, or activation(z), or the maxima of that under each placement of a window.
    """
    x, shift = float64(x, shift)
    axes = tuple(range(x.ndim - 1))
    d = x - shift
    mean = shift + d.mean(axis=axes)
    var = (d**2).mean(axis=axes) - d.mean(axis=axes) ** 2
    y = batch_norm_inference(
        x, mean, var, scale, bias, epsilon=epsilon, activation=activation
    )
    if pool is not None:
        y = max_pool(y, pool.window, strides=pool.strides, padding=pool.padding)
    return y, mean, var


def batch_norm_grad(
    x: np.ndarray,
    scale: np.ndarray,
    dy: np.ndarray,
    dmean: np.ndarray,
    dvar: np.ndarray,
    *,
    epsilon: float,
    bias: np.ndarray | float = 0.0,
    activation: Callable[..., object] | None = None,
    pool: MaxPool | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the cotangents (dx, dscale, dbias), which no shift changes.

    With r = 1 / sqrt(var + epsilon) and h = (x - mean) r, and with the cotangent of
    z = scale h + bias, which is dz = activation'(z) dy, or dy itself without activation
    (then the bias is not needed; where y is pooled, dy is first sent back to the
    entries that were selected):

        dbias  = sum dz
        dscale = sum dz h

    The loss depends on x in three ways: directly, through the mean and through the
    variance, where d mean / d x = 1 / M and d var / d x = 2 (x - mean) / M. The
    cotangents that arrive at the two statistics are

        at the mean      dmean - scale r sum dz
        at the variance  dvar  - scale r^2 / 2 sum dz h

    (the mean inside the variance adds nothing, for sum (x - mean) = 0), so that

        dx = scale r (dz - (sum dz) / M - h (sum dz h) / M)
             + dmean / M + 2 (x - mean) dvar / M.
    """
    x, scale, bias, dmean, dvar = float64(x, scale, bias, dmean, dvar)
    axes = tuple(range(x.ndim - 1))
    count = math.prod(x.shape[:-1])
    centred = x - x.mean(axis=axes)
    r = 1.0 / np.sqrt(x.var(axis=axes) + epsilon)
    h = centred * r
    z = scale * h + bias
    if pool is not None:
        pooled = z if activation is None else named_like(activation)[0](z)
        dy = max_pool_grad(
            pooled, dy, pool.window, strides=pool.strides, padding=pool.padding
        )
    dz = _before_activation(z, dy, activation)
    dbias = dz.sum(axis=axes)
    dscale = (dz * h).sum(axis=axes)
    dx = scale * r * (dz - dbias / count - h * dscale / count)
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
    activation: Callable[..., object] | None = None,
) -> np.ndarray:
    """For each channel, z = scale (x - mean) / sqrt(var + epsilon) + bias.

    y is z, or activation(z).
    """
    x, mean, var, scale, bias = float64(x, mean, var, scale, bias)
    z = scale * (x - mean) / np.sqrt(var + epsilon) + bias
    return z if activation is None else named_like(activation)[0](z)


def batch_norm_inference_grad(
    x: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    scale: np.ndarray,
    dy: np.ndarray,
    *,
    epsilon: float,
    bias: np.ndarray | float = 0.0,
    activation: Callable[..., object] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the cotangents (dx, dmean, dvar, dscale, dbias).

    With r = 1 / sqrt(var + epsilon), h = (x - mean) r, z = scale h + bias and
    dz = activation'(z) dy, or dy itself without activation (then the bias is not
    needed):

        dx = dz scale r          dmean = -scale r sum dz
        dscale = sum dz h        dvar  = -scale r^2 / 2 sum dz h
        dbias = sum dz
    """
    x, mean, var, scale, bias = float64(x, mean, var, scale, bias)
    r = 1.0 / np.sqrt(var + epsilon)
    h = (x - mean) * r
    dz = _before_activation(scale * h + bias, dy, activation)
    dbias = sum_to_channels(dz)
    dscale = sum_to_channels(dz * h)
    return (
        dz * scale * r,
        -scale * r * dbias,
        -0.5 * scale * r**2 * dscale,
        dscale,
        dbias,
    )


def _before_activation(z, dy, activation):
    """Returns the cotangent of z, where y = activation(z), or y = z without one."""
    return float64(dy) if activation is None else named_like(activation)[1](z, dy)
