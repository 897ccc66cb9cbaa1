"""Activations of straight pieces (and hard_swish, of a clamp and a product)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.kernels import autodiff
from cnn_jax.kernels.activation.guided import passed_back
from cnn_jax.kernels.kernel import custom_vjp, kernel
from cnn_jax.kernels.operands import require_floating, widen


@kernel(autodiff.relu)
def relu(x: jax.Array) -> jax.Array:
    """Returns max(x, 0).

    dx = dy where x > 0, else 0: the gradient at 0 is 0, and so it is at NaN. What is
    saved is the mask y > 0: one byte, where the output takes two to eight and would
    have to be kept.

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


@custom_vjp
def _relu(x):
    return jnp.maximum(x, 0)


def _relu_fwd(x):
    y = clamped(x, 0)
    # Of y and not of x: where y is kept, as the next layer's input is, a compiler can
    # form the mask again rather than store it.
    return y, inside(y, 0)


def _relu_bwd(mask, dy):
    return (masked(passed_back(mask, dy), dy),)


_relu.defvjp(_relu_fwd, _relu_bwd)


@kernel(autodiff.relu6)
def relu6(x: jax.Array) -> jax.Array:
    """Returns min(max(x, 0), 6).

    dx = dy where 0 < x < 6, else 0: the gradient is 0 at 0, at 6 and at NaN. The mask
    0 < y < 6 is saved, as relu's is.

    Args:
      x: Any shape, floating-point.

    Returns:
      The shape and dtype of `x`.

    Raises:
      ValueError: If x is not floating-point.

    Source: Krizhevsky, "Convolutional Deep Belief Networks on CIFAR-10", 2010.
    """
    x = jnp.asarray(x)
    require_floating("relu6", x=x)
    return _relu6(x)


@custom_vjp
def _relu6(x):
    return jnp.clip(x, 0, 6)


def _relu6_fwd(x):
    y = clamped(x, 0, 6)
    return y, inside(y, 0, 6)


_relu6.defvjp(_relu6_fwd, _relu_bwd)


@kernel(autodiff.hard_sigmoid)
def hard_sigmoid(x: jax.Array) -> jax.Array:
    """Returns relu6(x + 3) / 6.

    dx = dy / 6 where -3 < x < 3, else 0: the gradient is 0 at -3, at 3 and at NaN. That
    mask is saved.

    Args:
      x: Any shape, floating-point.

    Returns:
      The shape and dtype of `x`.

    Raises:
      ValueError: If x is not floating-point.

    Source: Howard et al., "Searching for MobileNetV3", 2019.
    """
    x = jnp.asarray(x)
    require_floating("hard_sigmoid", x=x)
    return _hard_sigmoid(x)


@custom_vjp
def _hard_sigmoid(x):
    return _hard_sigmoid_fwd(x)[0]


def _hard_sigmoid_fwd(x):
    return hard_gate(x)


def _hard_sigmoid_bwd(mask, dy):
    return (masked(mask, dy / 6),)


_hard_sigmoid.defvjp(_hard_sigmoid_fwd, _hard_sigmoid_bwd)


@kernel(autodiff.hard_swish)
def hard_swish(x: jax.Array) -> jax.Array:
    """Returns x hard_sigmoid(x).

    With h = hard_sigmoid(x) the product rule gives dx = dy (h + x h'), which is
    dy (2 x + 3) / 6 where -3 < x < 3. h' is 0 at the corners, so dx = 0 up to and at
    -3, where h = 0, and dx = dy from 3 on, where h = 1. x is saved.

    Args:
      x: Any shape, floating-point.

    Returns:
      The shape and dtype of `x`.

    Raises:
      ValueError: If x is not floating-point.

    Source: Howard et al., "Searching for MobileNetV3", 2019.
    """
    x = jnp.asarray(x)
    require_floating("hard_swish", x=x)
    return _hard_swish(x)


@custom_vjp
def _hard_swish(x):
    return _hard_swish_fwd(x)[0]


def _hard_swish_fwd(x):
    wide = widen(x)
    return (wide * hard_gate(wide)[0]).astype(x.dtype), x


def _hard_swish_bwd(x, dy):
    wide = widen(x)
    slope = jnp.where(wide >= 3, 1.0, (2 * wide + 3) / 6)
    slope = jnp.where(wide <= -3, 0.0, slope)
    return ((widen(dy) * slope).astype(dy.dtype),)


_hard_swish.defvjp(_hard_swish_fwd, _hard_swish_bwd)


def hard_gate(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns relu6(x + 3) / 6 and where its derivative is not 0."""
    # The corners are compared with x itself: x + 3 may round to 0 or to 6.
    return (clamped(x, -3, 3) + 3) / 6, inside(x, -3, 3)


def _clamp(x: jax.Array, low: float, high: float | None = None) -> jax.Array:
    """Clips x; its derivative is 0 at the corners and at NaN.

    `jnp.clip` would pass half a tangent at a corner, which a second derivative shows:
    there JAX differentiates a kernel's forward pass.
    """
    return lax.platform_dependent(
        x,
        # As selections: XLA's CPU backend calls a library for a maximum, which splits
        # the fused loop. A ResNet-20 is then no faster than under autodiff.
        cpu=functools.partial(_select_inside, low=low, high=high),
        default=functools.partial(jnp.clip, min=low, max=high),
    )


def _select_inside(x, *, low, high):
    x = jnp.where(x <= low, jnp.asarray(low, x.dtype), x)
    return x if high is None else jnp.where(x >= high, jnp.asarray(high, x.dtype), x)


clamped: jax.custom_jvp[jax.Array] = jax.custom_jvp(_clamp, nondiff_argnums=(1, 2))


@clamped.defjvp
def _clamped_jvp(low, high, primals, tangents):
    (x,), (dx,) = primals, tangents
    return clamped(x, low, high), masked(inside(x, low, high), dx)


def inside(x: jax.Array, low: float, high: float | None = None) -> jax.Array:
    """Returns where `clamped` has derivative 1: strictly between its corners."""
    return x > low if high is None else (x > low) & (x < high)


def masked(mask: jax.Array, dy: jax.Array) -> jax.Array:
    """Returns dy where the mask holds, else 0, even where dy is not finite."""
    return jnp.where(mask, dy, jnp.zeros_like(dy))
