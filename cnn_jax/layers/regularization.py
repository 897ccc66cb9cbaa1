"""Layers that drop something at random in training and nothing in inference."""

from __future__ import annotations

import functools
from collections.abc import Callable

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
        return _drop(self, K.dropout, x, deterministic)


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
        return _drop(self, K.stochastic_depth, x, deterministic)


class SpatialDropout(nn.Module):
    """Drops whole channels at random, rescales the others (Tompson et al. 2015).

    The key comes from the rng collection `dropout`.

    Attributes:
      rate: The probability that a channel of an example is dropped, in [0, 1).
      deterministic: Whether to return the input as it is (inference). Given here or
        in the call, not in both.
    """

    rate: float
    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool | None = None) -> jax.Array:
        """Returns `x` `(n, *spatial, c)` with channels dropped.

        Raises:
          ValueError: If `rate` is outside [0, 1).
        """
        return _drop(self, K.spatial_dropout, x, deterministic)


class DropBlock(nn.Module):
    """Drops squares of each channel at random (Ghiasi et al. 2018).

    What remains of an example is rescaled by the number of its entries over that of
    those which remain. The key comes from the rng collection `dropout`.

    Attributes:
      rate: The share of a map to drop, in [0, 1); the paper raises it from 0 to 0.1
        over the training of ResNet-50.
      block_size: The squares' side; where the map is smaller, the map's.
      deterministic: Whether to return the input as it is (inference). Given here or
        in the call, not in both.
    """

    rate: float
    block_size: int = 7
    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool | None = None) -> jax.Array:
        """Returns `x` `(n, *spatial, c)` with squares dropped.

        Raises:
          ValueError: If `rate` is outside [0, 1), or `block_size` is below 1.
        """
        kernel = functools.partial(K.drop_block, block_size=self.block_size)
        return _drop(self, kernel, x, deterministic)


def _drop(
    layer: Dropout | StochasticDepth | SpatialDropout | DropBlock,
    kernel: Callable[[jax.Array, jax.Array, float], jax.Array],
    x: jax.Array,
    deterministic: bool | None,
) -> jax.Array:
    """Applies a layer's kernel with a key of its own, unless nothing is to drop."""
    if not 0.0 <= layer.rate < 1.0:
        raise ValueError(
            f"rate: got {layer.rate}, expected the probability of dropping, in [0, 1)."
        )
    deterministic = nn.merge_param("deterministic", layer.deterministic, deterministic)
    if deterministic or layer.rate == 0.0:
        return x
    return kernel(x, layer.make_rng("dropout"), layer.rate)
