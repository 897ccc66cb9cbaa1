"""Activations without corners: the sigmoid, and x times a smooth gate."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.kernels import autodiff
from cnn_jax.kernels.kernel import custom_vjp, kernel
from cnn_jax.kernels.operands import require_floating, widen
from cnn_jax.kernels.platforms import tpu_optimization_barrier


@kernel(autodiff.sigmoid)
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


@custom_vjp
def _sigmoid(x):
    return lax.logistic(widen(x)).astype(x.dtype)


def _sigmoid_fwd(x):
    y = lax.logistic(widen(x)).astype(x.dtype)
    return y, y


def _sigmoid_bwd(y, dy):
    wide = widen(y)
    return ((widen(dy) * wide * (1 - wide)).astype(dy.dtype),)


_sigmoid.defvjp(_sigmoid_fwd, _sigmoid_bwd)


@kernel(autodiff.silu)
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

    Source: Elfwing, Uchibe and Doya, "Sigmoid-Weighted Linear Units for Neural Network
    Function Approximation in Reinforcement Learning", 2017.
    """
    x = jnp.asarray(x)
    require_floating("silu", x=x)
    return _silu(x)


@custom_vjp
def _silu(x):
    return _silu_fwd(x)[0]


def _silu_fwd(x):
    wide = widen(x)
    return (wide * lax.logistic(wide)).astype(x.dtype), x


def _silu_bwd(x, dy):
    near = _near(widen(x))
    gate = lax.logistic(near)
    return ((widen(dy) * (gate * (1 + near * (1 - gate)))).astype(dy.dtype),)


_silu.defvjp(_silu_fwd, _silu_bwd)


@kernel(autodiff.gelu)
def gelu(x: jax.Array, *, approximate: bool = True) -> jax.Array:
    """Returns x P(Z <= x) for a standard normal Z, or the usual approximation of it.

    With the normal distribution's F(x) = erfc(-x / sqrt(2)) / 2 and its density
    F' = exp(-x^2 / 2) / sqrt(2 pi), the product rule gives dx = dy (F + x F').

    The approximation is F = (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3),
    so that F' = (1 - tanh(u)^2) u' / 2 with u' = sqrt(2 / pi) (1 + 3 * 0.044715 x^2).
    Either way x is saved, and F computed again.

    Args:
      x: Any shape, floating-point.
      approximate: Whether to use the tanh form, as `jax.nn.gelu` does by default;
        PyTorch's default is the other.

    Returns:
      The shape and dtype of `x`.

    Raises:
      ValueError: If x is not floating-point.

    Source: Hendrycks and Gimpel, "Gaussian Error Linear Units (GELUs)", 2016.
    """
    x = jnp.asarray(x)
    require_floating("gelu", x=x)
    return _gelu(x, bool(approximate))


@functools.partial(custom_vjp, nondiff_argnums=(1,))
def _gelu(x, approximate):
    return _gelu_fwd(x, approximate)[0]


def _gelu_fwd(x, approximate):
    wide = widen(x)
    gate, _ = _normal_distribution(_near(wide), approximate)
    return (wide * gate).astype(x.dtype), x


def _gelu_bwd(approximate, x, dy):
    # A TPU's compiler would keep F from the forward pass, twice x's bytes.
    (x,) = tpu_optimization_barrier(x)
    return (gelu_pull_back(x, dy, approximate),)


_gelu.defvjp(_gelu_fwd, _gelu_bwd)


def gelu_pull_back(x: jax.Array, dy: jax.Array, approximate: bool) -> jax.Array:
    """Returns gelu's derivative times dy, in dy's dtype."""
    near = _near(widen(x))
    gate, density = _normal_distribution(near, approximate)
    return (widen(dy) * (gate + near * density)).astype(dy.dtype)


def _normal_distribution(x, approximate):
    if not approximate:
        density = jnp.exp(-0.5 * jnp.square(x)) / math.sqrt(2 * math.pi)
        return 0.5 * lax.erfc(-math.sqrt(0.5) * x), density
    factor, square = math.sqrt(2 / math.pi), jnp.square(x)
    tanh = jnp.tanh(factor * x * (1 + 0.044715 * square))
    slope = factor * (1 + 3 * 0.044715 * square)
    return 0.5 * (1 + tanh), 0.5 * (1 - jnp.square(tanh)) * slope


def _near(x):
    # Beyond 800 a smooth gate is 0 or 1, in float64 too: the product rule's second term
    # is 0 there, and must not become infinity times 0.
    return jnp.clip(x, -800, 800)
