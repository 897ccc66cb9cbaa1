"""The random keys of a run, all from its seed."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from cnn_jax.seeds import check_seed


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
    """Returns the keys of a seed.

    Raises:
      ValueError: If it is no whole number from 0 to 2^32 - 1.
    """
    return Keys(*jax.random.split(jax.random.key(check_seed(seed)), 3))


def place_keys(keys: Any, where: jax.sharding.Sharding) -> Any:
    """Puts a tree of keys where a sharding says, also on other processes' devices.

    `jax.device_put` does so with numbers only.
    """
    numbers = jax.tree.map(lambda key: np.asarray(jax.random.key_data(key)), keys)
    wrap = jax.jit(_wrap, out_shardings=where)
    return wrap(jax.device_put(numbers, where))


def _wrap(numbers: Any) -> Any:
    return jax.tree.map(jax.random.wrap_key_data, numbers)
