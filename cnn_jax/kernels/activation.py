"""Activations: elementwise, each saving one array for the way back.

With y = f(x) elementwise, dx = f'(x) dy. What is saved is whichever of x and y gives
f' cheapest, and it is usually alive anyway: y is the next layer's input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

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


class Fused(NamedTuple):
    """An activation y = f(z) as it runs inside another kernel's passes.

    Attributes:
      value: z -> f(z).
      pull_back: (z, dy) -> f'(z) dy. It takes dy, too, so that where f' is 0 nothing
        passes, not even an infinite dy.
    """

    value: Callable[[jax.Array], jax.Array]
    pull_back: Callable[[jax.Array, jax.Array], jax.Array]


FUSED: dict[Callable[[jax.Array], jax.Array], Fused] = {
    # A maximum would share its second derivative at 0 between z and the constant.
    relu: Fused(
        lambda z: jnp.where(z <= 0, jnp.zeros_like(z), z),
        lambda z, dy: jnp.where(z > 0, dy, jnp.zeros_like(dy)),
    ),
    # 1 - sigmoid(z) is sigmoid(-z), without the cancellation where z is large.
    sigmoid: Fused(
        jax.lax.logistic,
        lambda z, dy: dy * jax.lax.logistic(z) * jax.lax.logistic(-z),
    ),
    silu: Fused(
        lambda z: z * jax.lax.logistic(z),
        lambda z, dy: _silu_bwd(z, dy)[0],
    ),
}
"""What kernels that end in an activation accept: a new one is a new row here."""


def is_fused(activation: object) -> bool:
    """Whether kernels that end in an activation accept this one."""
    # Not `in`, which would need a hash of whatever a user applies.
    return any(activation is known for known in FUSED)


def require_fused(function: str, **activations: object) -> None:
    """Raises ValueError unless all activations are in the table."""
    for label, activation in activations.items():
        if not is_fused(activation):
            known = ", ".join(sorted(known.__name__ for known in FUSED))
            raise ValueError(
                f"{function}: got {label} {activation!r}, expected one of the kernels "
                f"{known}; apply any other function outside."
            )
