r"""Batch normalisation and its gradients, derived by hand.

Per channel, over the N entries of a batch, training-mode batch norm computes

    mu = mean(x),   v = mean((x - mu)^2),   r = (v + eps)^(-1/2),
    xhat = (x - mu) r,   y = scale xhat + bias.

The backward pass receives three cotangents: dy, and dmu and dv of the returned
statistics. Scale and bias are applied to every entry once:

    dbias = sum dy,   dscale = sum dy xhat.

For x, write g = scale dy, the gradient by xhat. Moving one x_j moves xhat directly
(r g_j), through mu (which subtracts r mean(g) from all) and through v, whose
derivative by x_j is 2 (x_j - mu) / N and which changes xhat by -xhat r^2 / 2. Together:

    dx = r (g - mean(g) - xhat mean(g xhat)) + dmu / N + dv 2 (x - mu) / N.

So the backward pass needs x, mu, r and the scale, never xhat itself.

A platform may form mu and v about a shift s, from the averages of x - s and of its
square; `kernels.platforms.statistics` derives this and bounds its error. Both are the
same functions of x for every s, so that s has no gradient and nothing above changes.

An activation f may follow: y = f(z) with z = scale xhat + bias. Then the cotangent of z
is dz = f'(z) dy, and it takes dy's place in every line above; the statistics do not
pass through f, so dmu and dv stay as they are. With z = scale (x - mu) r + bias
computed again in the same pass, what is saved grows by the bias alone: neither z nor y
nor a mask, one of which the two functions one after the other would keep beside x.

Source: Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by
Reducing Internal Covariate Shift", 2015.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.geometry import MaxPool
from cnn_jax.kernels import autodiff
from cnn_jax.kernels import pool as pooling
from cnn_jax.kernels.activation.fused import require_fused
from cnn_jax.kernels.activation.piecewise import relu
from cnn_jax.kernels.batch_norm_pool import batch_norm_pool, is_after_maximum
from cnn_jax.kernels.kernel import custom_vjp, kernel
from cnn_jax.kernels.operands import (
    accumulation_dtype,
    align_manual_axes,
    require_channels,
    require_epsilon,
    require_floating,
    to_array,
    widen,
)
from cnn_jax.kernels.per_channel import (
    activated,
    activated_grad,
    centred,
    input_terms,
    less_mean,
    per_channel,
    subtracted,
)
from cnn_jax.kernels.platforms import current_target, tpu_optimization_barrier
from cnn_jax.kernels.platforms.statistics import batch_statistics


@kernel(autodiff.batch_norm)
def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    epsilon: float,
    activation: Callable[[jax.Array], jax.Array] | None = None,
    pool: MaxPool | None = None,
    shift: jax.Array | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises each channel by the batch's own statistics (training mode).

    With y = f(z), z = scale xhat + bias and dz = f'(z) dy (dz = dy without activation),

        dx = r (g - mean(g) - xhat mean(g xhat)) + dmean / N + dvar 2 (x - mean) / N

    where g = scale dz, and dscale = sum dz xhat, dbias = sum dz; see the module for the
    steps. Saved are x and vectors of channels: z is computed again.

    Args:
      x: `(n, ..., c)`; the statistics run over all axes but the last.
      scale: `(c,)`, of x's dtype or the statistics' dtype.
      bias: `(c,)`, likewise.
      epsilon: Added to the variance, at least 0.
      activation: f, one of the kernels in `kernels.activation.fused.FUSED`, such as
        `relu`, applied before y is rounded to x's dtype; None applies nothing.
      pool: Max-pooling of y, as by `max_pool`; None pools nothing. x is then
        `(n, *spatial, c)`. On a TPU, and if f never decreases, the maximum is taken
        before f, with the same result, and neither z nor y before it is formed; where
        entries tie after f alone, the gradient then goes to the one that is larger
        before it, instead of the first.
      shift: `(c,)`, of x's dtype or the statistics' dtype: about what the mean will be,
        such as the running mean; finite; None for zeros. It changes no more than the
        rounding, and has no gradient. Where the statistics are formed in one pass (not
        on a CPU), the variance of float32 x has a relative error of at most 1e-5 if
        `shift` is within 10 deviations of the mean; beyond, the error grows with the
        square of their distance, as that of E[x^2] - E[x]^2 grows with the mean's. The
        variance is never negative. Devices that share it must be given one shift.
      axis_name: Mapped axis or axes (`shard_map`, `pmap`, `vmap`) whose devices share
        one set of statistics; None keeps them local. Under `jit` with a sharded batch
        they are global without it.
      axis_index_groups: Groups of devices along `axis_name` that share statistics, as
        in `jax.lax.psum`.

    Returns:
      `(y, mean, var)`: y of x's dtype and, unless pooled, its shape; mean and the
      biased variance of x `(c,)` in float32, or float64 for float64 x. All three can be
      differentiated.

    Raises:
      ValueError: If shapes or dtypes do not fit, a batch of no entries is given,
        epsilon is none of the statistics' dtype, the activation is none of those, or
        the pooling does not fit.
    """
    x, scale, bias = jnp.asarray(x), jnp.asarray(scale), jnp.asarray(bias)
    shift = to_array(shift)
    _require_rows("batch_norm", x)
    require_channels("batch_norm", x, scale=scale, bias=bias, shift=shift)
    if activation is not None:
        require_fused("batch_norm", activation=activation)
    if math.prod(x.shape[:-1]) == 0:
        raise ValueError(
            f"batch_norm: got x {x.shape}, expected at least one entry a channel: an "
            "empty batch has no mean."
        )
    if axis_index_groups is not None:
        axis_index_groups = tuple(map(tuple, axis_index_groups))
    if shift is not None:
        # As it is, not aligned: the mean it is added to is the same on all devices.
        shift = lax.stop_gradient(widen(shift))
    target, window = current_target(), None
    if pool is not None:
        window = pooling._resolve("batch_norm", x.shape, *pool, 1)
    epsilon = require_epsilon("batch_norm", epsilon, x)
    operands = (*align_manual_axes(x, scale, bias), shift)
    if window is not None and is_after_maximum(activation, window, target):
        return batch_norm_pool(
            *operands,
            epsilon=epsilon,
            activation=activation,
            window=window,
            axis_name=axis_name,
            groups=axis_index_groups,
            target=target,
        )
    # By the target, since the forms reach through both passes.
    y, mean, var = _batch_norm(
        *operands, epsilon, activation, axis_name, axis_index_groups, target
    )
    if pool is not None:
        y = pooling.max_pool(y, pool.window, strides=pool.strides, padding=pool.padding)
    return y, mean, var


@functools.partial(custom_vjp, nondiff_argnums=(4, 5, 6, 7, 8))
def _batch_norm(x, scale, bias, shift, epsilon, activation, axis_name, groups, target):
    return _batch_norm_fwd(
        x, scale, bias, shift, epsilon, activation, axis_name, groups, target
    )[0]


def _batch_norm_fwd(
    x, scale, bias, shift, epsilon, activation, axis_name, groups, target
):
    mean, var = batch_statistics(x, shift, axis_name, groups, target)
    r = lax.rsqrt(var + epsilon)
    taken = subtracted(mean, x, target)
    gain = r * scale.astype(r.dtype)
    constant = less_mean(bias.astype(r.dtype), gain, mean, taken)
    y = activated(centred(x, taken), gain, constant, activation)
    residuals = (x, mean, r, scale, _needed_bias(bias, activation))
    return (y.astype(x.dtype), mean, var), residuals


def _batch_norm_bwd(
    epsilon, activation, axis_name, groups, target, residuals, cotangents
):
    x, mean, r, scale, bias = residuals
    dy, dmean, dvar = cotangents
    axes = tuple(range(x.ndim - 1))
    count = float(math.prod(x.shape[:-1]))  # an int32 is too small for a pod
    wide_scale = scale.astype(r.dtype)
    gain = r * wide_scale
    taken = subtracted(mean, x, target)
    entries = centred(x, taken)
    constant = bias
    if activation is not None:
        constant = less_mean(bias.astype(r.dtype), gain, mean, taken)
    dz = activated_grad(entries, gain, constant, activation, dy)
    dbias = jnp.sum(dz, axis=axes)
    dscale = r * less_mean(jnp.sum(dz * entries, axis=axes), dbias, mean, taken)
    # Per channel, dx = a dz + b (x - mean) + c: three vectors, one pass over x and dy.
    slope, offset = input_terms(
        *((dbias, dscale), (dmean, dvar), r, wide_scale, count, dy, axis_name, groups)
    )
    offset = less_mean(offset, slope, mean, taken)
    if _is_costly_on_tpu(activation, target):
        # Stored where it is formed, beside its sums, at the end of what made dy: else
        # each reader of dx would compute f' again, or dx would be stored by one more
        # pass over dy and x.
        (stored,) = tpu_optimization_barrier(dz.astype(x.dtype))
        dz = stored.astype(dz.dtype)
    dx = (
        dz * per_channel(gain, x)
        + entries * per_channel(slope, x)
        + per_channel(offset, x)
    )
    return (
        dx.astype(x.dtype),
        dscale.astype(scale.dtype),
        dbias.astype(bias.dtype),
        None,
    )


_batch_norm.defvjp(_batch_norm_fwd, _batch_norm_bwd)


@kernel(autodiff.batch_norm_inference)
def batch_norm_inference(
    x: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    epsilon: float,
    activation: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Normalises each channel by given statistics (inference mode).

    With r = (var + eps)^(-1/2) and xhat = (x - mean) r, they are plain inputs; and with
    y = f(scale xhat + bias), dz is f' times dy, or dy itself without activation:

        dx = scale r dz,            dscale = sum dz xhat,    dbias = sum dz,
        dmean = -scale r sum dz,    dvar = -scale r^2 / 2 sum dz xhat.

    Args:
      x: `(n, ..., c)`.
      mean: `(c,)`, like the following of x's dtype or float32 (float64 for float64 x).
      var: `(c,)`.
      scale: `(c,)`.
      bias: `(c,)`.
      epsilon: Added to the variance, at least 0.
      activation: f, as for `batch_norm`.

    Returns:
      The shape and dtype of `x`.

    Raises:
      ValueError: If shapes or dtypes do not fit, epsilon is none of the statistics'
        dtype, or the activation is none of those.
    """
    x = jnp.asarray(x)
    vectors = tuple(jnp.asarray(vector) for vector in (mean, var, scale, bias))
    _require_rows("batch_norm_inference", x)
    mean, var, scale, bias = vectors
    require_channels(
        "batch_norm_inference", x, mean=mean, var=var, scale=scale, bias=bias
    )
    if activation is not None:
        require_fused("batch_norm_inference", activation=activation)
    return _batch_norm_inference(
        *align_manual_axes(x, *vectors),
        require_epsilon("batch_norm_inference", epsilon, x),
        activation,
    )


@functools.partial(custom_vjp, nondiff_argnums=(5, 6))
def _batch_norm_inference(x, mean, var, scale, bias, epsilon, activation):
    return _batch_norm_inference_fwd(x, mean, var, scale, bias, epsilon, activation)[0]


def _batch_norm_inference_fwd(x, mean, var, scale, bias, epsilon, activation):
    wide = x.astype(accumulation_dtype(x.dtype))
    r = lax.rsqrt(var.astype(wide.dtype) + epsilon)
    less_its_mean = wide - per_channel(mean.astype(wide.dtype), x)
    xhat = less_its_mean * per_channel(r, x)
    y = activated(xhat, scale.astype(r.dtype), bias, activation).astype(x.dtype)
    return y, (x, mean, var, scale, _needed_bias(bias, activation))


def _batch_norm_inference_bwd(epsilon, activation, residuals, dy):
    x, mean, var, scale, bias = residuals
    dtype, scale_dtype = accumulation_dtype(x.dtype), scale.dtype
    axes = tuple(range(x.ndim - 1))
    r = lax.rsqrt(var.astype(dtype) + epsilon)
    scale, gain = scale.astype(dtype), r * scale.astype(dtype)
    less_its_mean = x.astype(dtype) - per_channel(mean.astype(dtype), x)
    dz = activated_grad(less_its_mean * per_channel(r, x), scale, bias, activation, dy)
    dbias = jnp.sum(dz, axis=axes)
    dscale = jnp.sum(dz * less_its_mean, axis=axes) * r
    return (
        (dz * per_channel(gain, x)).astype(x.dtype),
        (-gain * dbias).astype(mean.dtype),
        (-0.5 * gain * r * dscale).astype(var.dtype),
        dscale.astype(scale_dtype),
        dbias.astype(bias.dtype),
    )


_batch_norm_inference.defvjp(_batch_norm_inference_fwd, _batch_norm_inference_bwd)


def _is_costly_on_tpu(activation, target):
    """Returns whether computing f' again costs a TPU more than storing dz.

    A relu's is one comparison, and does not: `experiments/benchmarks/steps_tpu.py`
    compares whole steps.
    """
    return target == "tpu" and activation is not None and activation is not relu


def _needed_bias(bias, activation):
    """Returns what to save of the bias: its dtype alone, unless z is to be made."""
    return bias[:0] if activation is None else bias


def _require_rows(name, x):
    if x.ndim < 2:
        raise ValueError(f"{name}: got x {x.shape}, expected (n, ..., c).")
    require_floating(name, x=x)
