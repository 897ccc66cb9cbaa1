"""Layers that drop something at random in training and nothing in inference."""

from __future__ import annotations

import flax.linen as nn
import jax

from cnn_jax import kernels as K


class Dropout(nn.Module):
    """Sets entries to zero at random and rescales the others (Srivastava et al. 2014).

    The key comes from the rng collection `dropout`:
    `model.apply(variables, x, train=True, rngs={"dropout": key})`.

    Attributes:
      rate: The probability that an entry is dropped, in [0, 1).
      deterministic: Whether to return the input as it is (inference). Given here or
        in the call, not in both.
    """

    rate: float
    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool | None = None) -> jax.Array:
        """Returns `x` (of any shape) with entries dropped.

        Raises:
          ValueError: If `rate` is outside [0, 1).
        """
        _check_rate(self.rate)
        deterministic = nn.merge_param(
            "deterministic", self.deterministic, deterministic
        )
        if deterministic or self.rate == 0.0:
            return x
        return K.dropout(x, self.make_rng("dropout"), self.rate)


class StochasticDepth(nn.Module):
    """Drops whole examples of a residual branch at random (Huang et al. 2016).

    The examples that stay are scaled by `1 / (1 - rate)`. The key comes from the rng
    collection `dropout`.

    Attributes:
      rate: The probability that an example is dropped, in [0, 1).
      deterministic: Whether to return the input as it is (inference). Given here or
        in the call, not in both.
    """

    rate: float
    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool | None = None) -> jax.Array:
        """Returns the branch's output `x` `(n, ...)` with examples dropped.

        Raises:
          ValueError: If `rate` is outside [0, 1).
        """
        _check_rate(self.rate)
        deterministic = nn.merge_param(
            "deterministic", self.deterministic, deterministic
        )
        if deterministic or self.rate == 0.0:
            return x
        return K.stochastic_depth(x, self.make_rng("dropout"), self.rate)


def _check_rate(rate: float) -> None:
    if not 0.0 <= rate < 1.0:
        raise ValueError(
            f"rate: got {rate}, expected the probability of dropping, in [0, 1)."
        )
