r"""Normalisation and its gradients, derived by hand.

Per channel, over the N entries of a batch, training-mode batch norm computes

    mu = mean(x),   v = mean((x - mu)^2),   r = (v + eps)^(-1/2),
    xhat = (x - mu) r,   y = scale xhat + bias.

Three cotangents come back: dy, and dmu and dv of the returned statistics. Scale and
bias meet every entry once:

    dbias = sum dy,   dscale = sum dy xhat.

For x, write g = scale dy, the gradient by xhat. Moving one x_j moves xhat directly
(r g_j), through mu (which takes r mean(g) away from everyone) and through v, whose
derivative by x_j is 2 (x_j - mu) / N and which changes xhat by -xhat r^2 / 2. Together:

    dx = r (g - mean(g) - xhat mean(g xhat)) + dmu / N + dv 2 (x - mu) / N.

So the backward pass needs x, mu, r and the scale, never xhat itself.

Source: Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by
Reducing Internal Covariate Shift", 2015.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.kernels.operands import (
    accumulation_dtype,
    align_manual_axes,
    require_floating,
)


def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    epsilon: float,
    axis_name: str | tuple[str, ...] | None = None,
    axis_index_groups: list[list[int]] | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises each channel by the batch's own statistics (training mode).

    dx = r (g - mean(g) - xhat mean(g xhat)) + dmean / N + dvar 2 (x - mean) / N with
    g = scale dy, dscale = sum dy xhat, dbias = sum dy; see the module for the steps.

    Args:
      x: `(n, ..., c)`; the statistics run over all axes but the last.
      scale: `(c,)`, of x's dtype or the statistics' dtype.
      bias: `(c,)`, likewise.
      epsilon: Added to the variance, at least 0.
      axis_name: Mapped axis or axes (`shard_map`, `pmap`, `vmap`) whose devices share
        one set of statistics; None keeps them local. Under `jit` with a sharded batch
        they are global without it.
      axis_index_groups: Groups of devices along `axis_name` that share statistics, as
        in `jax.lax.psum`.

    Returns:
      `(y, mean, var)`: y of x's shape and dtype; mean and the biased variance `(c,)` in
      float32, or float64 for float64 x. All three can be differentiated.

    Raises:
      ValueError: If shapes or dtypes do not fit, or a batch of no entries is given.
    """
    x, scale, bias = jnp.asarray(x), jnp.asarray(scale), jnp.asarray(bias)
    _require_channels("batch_norm", x, scale=scale, bias=bias)
    if math.prod(x.shape[:-1]) == 0:
        raise ValueError(
            f"batch_norm: got x {x.shape}, expected at least one entry a channel: an "
            "empty batch has no mean."
        )
    if axis_index_groups is not None:
        axis_index_groups = tuple(map(tuple, axis_index_groups))
    x, scale, bias = align_manual_axes(x, scale, bias)
    return _batch_norm(x, scale, bias, float(epsilon), axis_name, axis_index_groups)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _batch_norm(x, scale, bias, epsilon, axis_name, groups):
    return _batch_norm_fwd(x, scale, bias, epsilon, axis_name, groups)[0]


def _batch_norm_fwd(x, scale, bias, epsilon, axis_name, groups):
    wide = x.astype(accumulation_dtype(x.dtype))
    axes = tuple(range(x.ndim - 1))
    # Two passes: the one-pass E[x^2] - E[x]^2 cancels where the mean is large.
    local_mean = jnp.mean(wide, axis=axes)
    mean = _mean_over_devices(local_mean, axis_name, groups)
    local_var = jnp.mean(jnp.square(wide - _per_channel(local_mean, x)), axis=axes)
    if axis_name is None:
        var = local_var
    else:
        var = _mean_over_devices(
            local_var + jnp.square(local_mean - mean), axis_name, groups
        )
    r = lax.rsqrt(var + epsilon)
    y = _normalize(wide, mean, r * scale.astype(wide.dtype), bias).astype(x.dtype)
    return (y, mean, var), (x, mean, r, scale, bias[:0])


def _batch_norm_bwd(epsilon, axis_name, groups, residuals, cotangents):
    x, mean, r, scale, empty_bias = residuals
    dy, dmean, dvar = cotangents
    axes = tuple(range(x.ndim - 1))
    count = math.prod(x.shape[:-1])
    wide_dy = dy.astype(r.dtype)
    centred = x.astype(r.dtype) - _per_channel(mean, x)
    dbias = jnp.sum(wide_dy, axis=axes)
    dscale = jnp.sum(wide_dy * centred, axis=axes) * r
    # Per channel, dx = a dy + b (x - mean) + c: three vectors, one pass over x and dy.
    # The means are of g = scale dy: each device may have a scale of its own.
    wide_scale = scale.astype(r.dtype)
    mean_g = _mean_over_devices(wide_scale * dbias / count, axis_name, groups)
    mean_g_xhat = _mean_over_devices(wide_scale * dscale / count, axis_name, groups)
    dmean = _sum_of_shares(dmean, dy, axis_name, groups) / count
    dvar = _sum_of_shares(dvar, dy, axis_name, groups) / count
    slope = 2.0 * dvar - jnp.square(r) * mean_g_xhat
    offset = dmean - r * mean_g
    dx = (
        wide_dy * _per_channel(r * wide_scale, x)
        + centred * _per_channel(slope, x)
        + _per_channel(offset, x)
    )
    return (
        dx.astype(x.dtype),
        dscale.astype(scale.dtype),
        dbias.astype(empty_bias.dtype),
    )


_batch_norm.defvjp(_batch_norm_fwd, _batch_norm_bwd)


def batch_norm_inference(
    x: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    epsilon: float,
) -> jax.Array:
    """Normalises each channel by given statistics (inference mode).

    With r = (var + eps)^(-1/2) and xhat = (x - mean) r, they are plain inputs:

        dx = scale r dy,            dscale = sum dy xhat,    dbias = sum dy,
        dmean = -scale r sum dy,    dvar = -scale r^2 / 2 sum dy xhat.

    Args:
      x: `(n, ..., c)`.
      mean: `(c,)`, like the following of x's dtype or float32 (float64 for float64 x).
      var: `(c,)`.
      scale: `(c,)`.
      bias: `(c,)`.
      epsilon: Added to the variance, at least 0.

    Returns:
      The shape and dtype of `x`.

    Raises:
      ValueError: If shapes or dtypes do not fit.
    """
    x = jnp.asarray(x)
    vectors = tuple(jnp.asarray(vector) for vector in (mean, var, scale, bias))
    names = ("mean", "var", "scale", "bias")
    _require_channels(
        "batch_norm_inference", x, **dict(zip(names, vectors, strict=True))
    )
    return _batch_norm_inference(*align_manual_axes(x, *vectors), float(epsilon))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _batch_norm_inference(x, mean, var, scale, bias, epsilon):
    return _batch_norm_inference_fwd(x, mean, var, scale, bias, epsilon)[0]


def _batch_norm_inference_fwd(x, mean, var, scale, bias, epsilon):
    wide = x.astype(accumulation_dtype(x.dtype))
    r = lax.rsqrt(var.astype(wide.dtype) + epsilon)
    gain = r * scale.astype(wide.dtype)
    y = _normalize(wide, mean.astype(wide.dtype), gain, bias).astype(x.dtype)
    return y, (x, mean, var, scale, bias[:0])


def _batch_norm_inference_bwd(epsilon, residuals, dy):
    x, mean, var, scale, empty_bias = residuals
    dtype = accumulation_dtype(x.dtype)
    axes = tuple(range(x.ndim - 1))
    r = lax.rsqrt(var.astype(dtype) + epsilon)
    gain = r * scale.astype(dtype)
    wide_dy = dy.astype(dtype)
    centred = x.astype(dtype) - _per_channel(mean.astype(dtype), x)
    dbias = jnp.sum(wide_dy, axis=axes)
    dscale = jnp.sum(wide_dy * centred, axis=axes) * r
    return (
        (wide_dy * _per_channel(gain, x)).astype(x.dtype),
        (-gain * dbias).astype(mean.dtype),
        (-0.5 * gain * r * dscale).astype(var.dtype),
        dscale.astype(scale.dtype),
        dbias.astype(empty_bias.dtype),
    )


_batch_norm_inference.defvjp(_batch_norm_inference_fwd, _batch_norm_inference_bwd)


def _normalize(wide, mean, gain, bias):
    centred = wide - _per_channel(mean, wide)
    return centred * _per_channel(gain, wide) + _per_channel(
        bias.astype(wide.dtype), wide
    )


def _per_channel(vector, x):
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


def _mean_over_devices(value, axis_name, groups):
    if axis_name is None:
        return value
    return lax.pmean(value, axis_name, axis_index_groups=groups)


def _sum_of_shares(cotangent, dy, axis_name, groups):
    """Returns the statistics' cotangent, averaged over the devices that share them.

    Each device holds the same statistics and may have used them differently. Where
    `shard_map` tracks replication, it sums their cotangents on the way here (dy varies
    over the axis, the statistics do not); elsewhere that sum is ours to form. Dividing
    by the number of devices turns a local entry count into the global one.
    """
    if axis_name is None:
        return cotangent
    names = {axis_name} if isinstance(axis_name, str) else set(axis_name)
    size = lax.psum(1, axis_name, axis_index_groups=groups)
    tracked = names <= jax.typeof(dy).manual_axis_type.varying
    if tracked:
        return cotangent / size
    return lax.psum(cotangent, axis_name, axis_index_groups=groups) / size


def _require_channels(name, x, **vectors):
    if x.ndim < 2:
        raise ValueError(f"{name}: got x {x.shape}, expected (n, ..., c).")
    require_floating(name, x=x)
    wide = accumulation_dtype(x.dtype)
    for label, vector in vectors.items():
        if vector.shape != x.shape[-1:]:
            raise ValueError(
                f"{name}: got {label} {vector.shape}, expected {x.shape[-1:]}."
            )
        if vector.dtype not in (x.dtype, wide):
            raise ValueError(
                f"{name}: got {label} {vector.dtype} for x {x.dtype}, expected "
                f"{x.dtype} or {wide}."
            )
