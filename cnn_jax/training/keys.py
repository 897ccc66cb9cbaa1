"""The random keys of a run, all from its seed."""

from __future__ import annotations

from typing import NamedTuple

import jax


class Keys(NamedTuple):
    """One root key for each thing that is random in a run.

    Attributes:
      parameters: Draws the initial parameters.
      order: Draws each epoch's order, by `fold_in(order, epoch)`.
      steps: Draws what is random in each step, by `fold_in(steps, step)`.
    """

    parameters: jax.Array
    order: jax.Array
    steps: jax.Array


def make_keys(seed: int) -> Keys:
    """Returns the keys of a seed."""
    return Keys(*jax.random.split(jax.random.key(seed), 3))
