"""Elementwise activations.

`jax.nn` writes relu, relu6 and what is built of them with the derivative 0 at their
corners. A maximum written out would have 0.5 there.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax import lax


def named_like(activation: Callable[..., object]) -> Callable[[jax.Array], jax.Array]:
    """Returns the twin of this name: a kernel's counterpart, or the twin itself."""
    return globals()[activation.__name__]


def relu(x: jax.Array) -> jax.Array:
    """Returns `max(x, 0)` with derivative 0 at 0: `jax.nn.relu`."""
    return jax.nn.relu(x)


def relu6(x: jax.Array) -> jax.Array:
    """Returns `min(max(x, 0), 6)` with derivative 0 at 0 and 6: `jax.nn.relu6`."""
    return jax.nn.relu6(x)


def sigmoid(x: jax.Array) -> jax.Array:
    """Returns `1 / (1 + exp(-x))`."""
    return lax.logistic(x)


def hard_sigmoid(x: jax.Array) -> jax.Array:
    """Returns `relu6(x + 3) / 6`."""
    return jax.nn.relu6(x + 3.0) / 6.0


def silu(x: jax.Array) -> jax.Array:
    """Returns `x * sigmoid(x)`."""
    return x * lax.logistic(x)


def hard_swish(x: jax.Array) -> jax.Array:
    """Returns `x * relu6(x + 3) / 6`."""
    return x * hard_sigmoid(x)


def gelu(x: jax.Array, *, approximate: bool = True) -> jax.Array:
    """Returns `x * P(Z <= x)`, Z standard normal, or its tanh form: `jax.nn.gelu`."""
    return jax.nn.gelu(x, approximate=approximate)
