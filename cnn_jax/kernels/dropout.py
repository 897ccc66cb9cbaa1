"""Dropout and stochastic depth: a random mask that is drawn twice, never stored.

Both multiply by a random m, so y = m x and dx = m dy with the same m. The mask is a
pure function of the key: the key is saved, and the backward pass draws the mask again.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from cnn_jax.kernels.operands import align_manual_axes, require_floating


def dropout(x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Zeroes each entry with probability `rate` and scales the rest by 1 / (1 - rate).

    dx = m dy with m = 0 or 1 / (1 - rate), the mask of the forward pass.

    Args:
      x: Any shape, floating-point.
      key: A key of `jax.random.key` (or a legacy uint32 key).
      rate: The probability of dropping, a Python float in [0, 1); 0 is the identity.

    Returns:
      The shape and dtype of `x`.

    Raises:
      ValueError: If the rate is not in [0, 1) or x is not floating-point.

    Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting", 2014.
    """
    x = jnp.asarray(x)
    require_floating("dropout", x=x)
    return _masked("dropout", x, key, rate, x.shape)


def stochastic_depth(x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Zeroes whole examples with probability `rate`, scales the rest by 1/(1 - rate).

    dx = m[n] dy[n], one m for each example n. Applied to a residual branch, it leaves
    the skip connection alone for the dropped examples.

    Args:
      x: `(n, ...)`, floating-point.
      key: A key of `jax.random.key` (or a legacy uint32 key).
      rate: The probability of dropping, a Python float in [0, 1); 0 is the identity.

    Returns:
      The shape and dtype of `x`.

    Raises:
      ValueError: If the rate is not in [0, 1), or x has no batch dimension or is not
        floating-point.

    Source: Huang et al., "Deep Networks with Stochastic Depth", 2016.
    """
    x = jnp.asarray(x)
    require_floating("stochastic_depth", x=x)
    if x.ndim < 1:
        raise ValueError("stochastic_depth: got a scalar, expected (n, ...).")
    mask_shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    return _masked("stochastic_depth", x, key, rate, mask_shape)


def _masked(name, x, key, rate, mask_shape):
    if isinstance(rate, jax.core.Tracer) or not 0.0 <= rate < 1.0:
        raise ValueError(f"{name}: got rate {rate}, expected a number in [0, 1).")
    if rate == 0.0:
        return x
    x, key = align_manual_axes(x, key)
    return _apply_mask(x, key, float(rate), mask_shape)


def _mask(x, key, rate, mask_shape):
    kept = jax.random.bernoulli(key, 1.0 - rate, mask_shape)
    return jnp.where(kept, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _apply_mask(x, key, rate, mask_shape):
    return _mask(x, key, rate, mask_shape)


def _apply_mask_fwd(x, key, rate, mask_shape):
    return _mask(x, key, rate, mask_shape), key


def _apply_mask_bwd(rate, mask_shape, key, dy):
    return _mask(dy, key, rate, mask_shape), None


_apply_mask.defvjp(_apply_mask_fwd, _apply_mask_bwd)
