"""Guided gradients: a backward rule for relu that is not its derivative.

Guided backpropagation shows which pixels increase a class's logit. relu's derivative
passes the incoming gradient wherever the input was positive; the guided rule does so
only where that gradient is positive, too, which drops negative evidence at every relu.
The rule belongs to the kernel, since relu also runs inside others' passes (batch
normalisation, squeeze-and-excite), where nothing outside can replace it.

Source: Springenberg, Dosovitskiy, Brox and Riedmiller, "Striving for Simplicity: The
All Convolutional Net", 2015.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

# Part of JAX's trace cache key, as the target platform is.
_guided = jax.make_user_context(default_value=False)


@contextlib.contextmanager
def guided_gradients() -> Iterator[None]:
    """Applies the guided rule to `relu` and `relu6` in gradients traced inside.

    Both the function and its gradient must be traced inside. Wherever the rule
    applies, the traced program calls `guided_sign`, which shows that it did.
    Values do not change, nor do the gradients of other activations.
    """
    with _guided(True):
        yield


def is_guided() -> bool:
    """Returns whether gradients that are traced here follow the guided rule."""
    return bool(_guided.value)


def passed_back(mask: jax.Array, dy: jax.Array) -> jax.Array:
    """Returns where a clamp passes dy: where `mask` holds, and dy > 0 if guided."""
    return mask & guided_sign(dy) if is_guided() else mask


@jax.jit
def guided_sign(dy: jax.Array) -> jax.Array:
    """Returns dy > 0; jitted, so that it has a name in the traced program."""
    return dy > 0
