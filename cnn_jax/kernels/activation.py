"""Activations: elementwise, each saving one array for the way back.

With y = f(x) elementwise, dx = f'(x) dy. What is saved is whichever of x and y gives
f' cheapest, and it is usually alive anyway: y is the next layer's input.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cnn_jax.kernels.operands import require_floating


def relu(x: jax.Array) -> jax.Array:
    """Returns max(x, 0).

    dx = dy where x > 0, else 0: the gradient at 0 is 0, and so it is at NaN.

    Args:
      x: Any shape, floating-point.

    Returns:
      The shape and dtype of `x`.

    Raises:
      ValueError: If x is not floating-point.
    """
    x = jnp.asarray(x)
    require_floating("relu", x=x)
    return _relu(x)


@jax.custom_vjp
def _relu(x):
    return jnp.maximum(x, 0)


def _relu_fwd(x):
    y = jnp.maximum(x, 0)
    return y, y


def _relu_bwd(y, dy):
    # y > 0 exactly where x > 0, so the output serves and the input can be freed.
    return (jnp.where(y > 0, dy, jnp.zeros_like(dy)),)


_relu.defvjp(_relu_fwd, _relu_bwd)


def sigmoid(x: jax.Array) -> jax.Array:
    """Returns 1 / (1 + exp(-x)).

    dx = dy y (1 - y), so the output is all that is saved.

    Args:
      x: Any shape, floating-point.

    Returns:
      The shape and dtype of `x`.

    Raises:
      ValueError: If x is not floating-point.
    """
    x = jnp.asarray(x)
    require_floating("sigmoid", x=x)
    return _sigmoid(x)


@jax.custom_vjp
def _sigmoid(x):
    return jax.lax.logistic(x)


def _sigmoid_fwd(x):
    y = jax.lax.logistic(x)
    return y, y


def _sigmoid_bwd(y, dy):
    return (dy * y * (1 - y),)


_sigmoid.defvjp(_sigmoid_fwd, _sigmoid_bwd)


def silu(x: jax.Array) -> jax.Array:
    """Returns x sigmoid(x), also called swish.

    With g = sigmoid(x) and g' = g (1 - g), the product rule gives
    dx = dy (g + x g') = dy g (1 + x (1 - g)); x is saved and g computed again.

    Args:
      x: Any shape, floating-point.

    Returns:
      The shape and dtype of `x`.

    Raises:
      ValueError: If x is not floating-point.
    """
    x = jnp.asarray(x)
    require_floating("silu", x=x)
    return _silu(x)


@jax.custom_vjp
def _silu(x):
    return x * jax.lax.logistic(x)


def _silu_fwd(x):
    return x * jax.lax.logistic(x), x


def _silu_bwd(x, dy):
    gate = jax.lax.logistic(x)
    return (dy * gate * (1 + x * (1 - gate)),)


_silu.defvjp(_silu_fwd, _silu_bwd)
