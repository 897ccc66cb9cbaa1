"""The range and type of seeds."""

from __future__ import annotations

import operator

from cnn_jax.geometry import is_integer

NUM_SEEDS = 2**32
"""Seeds are less than this: beyond, some generators map several to one."""

EXPECTED = f"a whole number from 0 to {NUM_SEEDS - 1:,} (2^32 - 1)"


def is_seed(value: object) -> bool:
    """Returns whether a value is a seed: a whole number from 0 to 2^32 - 1."""
    return is_integer(value) and 0 <= operator.index(value) < NUM_SEEDS


def check_seed(seed: int, name: str = "seed") -> int:
    """Returns a seed as a Python integer.

    Without 64 bits `jax.random.key` takes 2^32 for 0, and -1 for 2^32 - 1.

    Args:
      seed: A whole number, NumPy's too.
      name: What the error calls it.

    Raises:
      ValueError: If it is no seed.
    """
    if not is_seed(seed):
        raise ValueError(f"{name}: got {seed!r}, expected {EXPECTED}.")
    return operator.index(seed)
