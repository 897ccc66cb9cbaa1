"""The activations as they run inside another kernel's passes, from one table."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import lax

from cnn_jax.kernels.activation import piecewise, smooth
from cnn_jax.kernels.activation.guided import passed_back


class Fused(NamedTuple):
    """An activation y = f(z) as it runs inside another kernel's passes.

    Attributes:
      value: z -> f(z), in at least float32.
      pull_back: (z, dy) -> f'(z) dy. It takes dy, too, so that where f' is 0 nothing
        passes, not even an infinite dy.
    """

    value: Callable[[jax.Array], jax.Array]
    pull_back: Callable[[jax.Array, jax.Array], jax.Array]


def _clamp_pull_back(mask, dy):
    return piecewise.masked(passed_back(mask, dy), dy)


def _from_rule(forward, backward) -> Fused:
    """Makes a row of a kernel's own rule, where that saves its argument."""
    return Fused(lambda z: forward(z)[0], lambda z, dy: backward(z, dy)[0])


FUSED: dict[Callable[[jax.Array], jax.Array], Fused] = {
    piecewise.relu: Fused(
        lambda z: piecewise.clamped(z, 0),
        lambda z, dy: _clamp_pull_back(piecewise.inside(z, 0), dy),
    ),
    piecewise.relu6: Fused(
        lambda z: piecewise.clamped(z, 0, 6),
        lambda z, dy: _clamp_pull_back(piecewise.inside(z, 0, 6), dy),
    ),
    piecewise.hard_sigmoid: Fused(
        lambda z: piecewise.hard_gate(z)[0],
        lambda z, dy: piecewise.masked(piecewise.hard_gate(z)[1], dy / 6),
    ),
    piecewise.hard_swish: _from_rule(
        piecewise._hard_swish_fwd, piecewise._hard_swish_bwd
    ),
    # 1 - sigmoid(z) is sigmoid(-z), without the cancellation where z is large.
    smooth.sigmoid: Fused(
        lax.logistic, lambda z, dy: dy * lax.logistic(z) * lax.logistic(-z)
    ),
    smooth.silu: _from_rule(smooth._silu_fwd, smooth._silu_bwd),
    smooth.gelu: Fused(
        lambda z: smooth._gelu_fwd(z, approximate=True)[0],
        functools.partial(smooth.gelu_pull_back, approximate=True),
    ),
}
"""The activations that a kernel can end in: a new one is a new row here."""


def is_fused(activation: object) -> bool:
    """Returns whether kernels that end in an activation accept this one."""
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
