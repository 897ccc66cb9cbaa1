r"""Batch normalisation, an activation and max-pooling in one kernel, derived by hand.

The three one after the other compute, in each channel and for each window,

    y = max over the window of f(scale xhat + bias),   xhat = (x - mu) r.

Where f never decreases and the scale is not negative, so is the whole a function of x
that never decreases, and it may be applied after the maximum instead:

    y = f(scale (m - mu) r + bias),   m = max over the window of x.

Rounding never decreases either, so that not a bit differs. A channel of negative scale
is turned over first: with s = -1 there and 1 elsewhere, x' = s x has mean s mu, the
variance of x and xhat' = s xhat, so that abs(scale) xhat' = scale xhat.

So the passes over z and y run over the windows only, a quarter of the entries for a
stride of two, and y before the pooling is never formed. In the backward pass each
window passes its dz = f'(z) dy to one entry of x, where x is m. The two sums of batch
normalisation therefore run over the windows too,

    dbias = sum dz,   dscale = s sum dz xhat'(m),

before any dz has been sent to its place. With u the dz that arrive at an entry, summed,
and g = scale u, whose mean is scale dbias / N, as that of g xhat is scale dscale / N,
dx is what `batch_norm` has for it:

    dx = r (g - mean(g) - xhat mean(g xhat)) + dmu / N + dv 2 (x - mu) / N.

What is saved is x' and m.

Where entries of a window tie after f (or are rounded) but not before, the larger x
takes the gradient, where the three functions would choose the first. f' is mostly 0
there; where the scale is 0 dscale is another subgradient.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.geometry import Window
from cnn_jax.kernels.activation import hard_sigmoid, relu, relu6, sigmoid
from cnn_jax.kernels.activation.guided import is_guided
from cnn_jax.kernels.kernel import custom_vjp
from cnn_jax.kernels.per_channel import (
    Activation,
    activated,
    activated_grad,
    centred,
    input_terms,
    less_mean,
    per_channel,
    subtracted,
)
from cnn_jax.kernels.platforms import xla
from cnn_jax.kernels.platforms.statistics import AxisName, Groups, batch_statistics

_NEVER_DECREASING = (None, relu, relu6, sigmoid, hard_sigmoid)


def is_after_maximum(activation: Activation, window: Window, target: str) -> bool:
    """Returns whether `batch_norm_pool` computes this, and fast on the target.

    It does where every window has an entry of x, and the activation never decreases. On
    a TPU a convolution writes s x and its sums in its own pass; elsewhere s x would be
    a pass more.
    """
    return (
        target == "tpu"
        and not is_guided()  # whose rule looks at dy where it arrives at z
        and any(activation is known for known in _NEVER_DECREASING)
        and 0 not in window.output_sizes
        and max(window.dilation) == 1
        and all(
            min(pair) >= 0 and max(pair) < size
            for pair, size in zip(window.padding, window.sizes, strict=True)
        )
    )


def batch_norm_pool(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    shift: jax.Array | None,
    *,
    epsilon: float,
    activation: Activation,
    window: Window,
    axis_name: AxisName,
    groups: Groups,
    target: str,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns y, the mean and the variance, as `kernels.batch_norm` with a max-pool.

    The arguments are those of `kernels.batch_norm`, checked there, with the resolved
    window of the pooling and the platform; `is_after_maximum` holds for them.
    """
    return _batch_norm_pool(
        *(x, scale, bias, shift),
        *(epsilon, activation, window, axis_name, groups, target),
    )


@functools.partial(custom_vjp, nondiff_argnums=(4, 5, 6, 7, 8, 9))
def _batch_norm_pool(
    x, scale, bias, shift, epsilon, activation, window, axis_name, groups, target
):
    return _batch_norm_pool_fwd(
        *(x, scale, bias, shift),
        *(epsilon, activation, window, axis_name, groups, target),
    )[0]


def _batch_norm_pool_fwd(
    x, scale, bias, shift, epsilon, activation, window, axis_name, groups, target
):
    sign = _sign(scale)
    turned = x * per_channel(sign.astype(x.dtype), x)
    if axis_name is None:
        # Of what is stored anyway: of x they would have it stored beside, on a TPU.
        if shift is not None:
            shift = shift * sign.astype(shift.dtype)
        turned_mean, var = batch_statistics(turned, shift, None, None, target)
        mean = sign.astype(var.dtype) * turned_mean
    else:
        # Devices that share statistics may turn over other channels.
        mean, var = batch_statistics(x, shift, axis_name, groups, target)
        turned_mean = sign.astype(var.dtype) * mean
    r = lax.rsqrt(var + epsilon)
    largest = xla.max_pool(turned, window)
    taken = subtracted(turned_mean, x, target)
    gain = r * jnp.abs(scale).astype(r.dtype)
    constant = less_mean(bias.astype(r.dtype), gain, turned_mean, taken)
    y = activated(centred(largest, taken), gain, constant, activation)
    residuals = (turned, largest, mean, r, scale, bias)
    return (y.astype(x.dtype), mean, var), residuals


def _batch_norm_pool_bwd(
    epsilon, activation, window, axis_name, groups, target, residuals, cotangents
):
    turned, largest, mean, r, scale, bias = residuals
    dy, dmean, dvar = cotangents
    sign, wide_scale = _sign(scale).astype(r.dtype), scale.astype(r.dtype)
    axes = tuple(range(turned.ndim - 1))
    count = float(math.prod(turned.shape[:-1]))
    gain, turned_mean = r * jnp.abs(wide_scale), sign * mean
    taken = subtracted(turned_mean, turned, target)
    at_largest = centred(largest, taken)
    constant = less_mean(bias.astype(r.dtype), gain, turned_mean, taken)
    dz = activated_grad(at_largest, gain, constant, activation, dy)
    dbias = jnp.sum(dz, axis=axes)
    of_turned = less_mean(
        jnp.sum(dz * at_largest, axis=axes), dbias, turned_mean, taken
    )
    dscale = sign * r * of_turned
    slope, offset = input_terms(
        *((dbias, dscale), (dmean, dvar), r, wide_scale, count, dy, axis_name, groups)
    )
    offset = less_mean(offset, slope, mean, taken)
    sent = xla.max_pool_grad(turned, dz.astype(turned.dtype), window)
    dx = (
        sent.astype(r.dtype) * per_channel(r * wide_scale, turned)
        + centred(turned, taken) * per_channel(sign * slope, turned)
        + per_channel(offset, turned)
    )
    return (
        dx.astype(turned.dtype),
        dscale.astype(scale.dtype),
        dbias.astype(bias.dtype),
        None,
    )


_batch_norm_pool.defvjp(_batch_norm_pool_fwd, _batch_norm_pool_bwd)


def _sign(scale):
    return jnp.where(scale < 0, -1.0, 1.0).astype(scale.dtype)
