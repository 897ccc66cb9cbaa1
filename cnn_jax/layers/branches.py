"""Branches side by side, whose outputs are joined channel by channel: "inception"."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import kernels as K
from cnn_jax.layers.conv_norm import ConvNormActivation
from cnn_jax.layers.convolution import Conv
from cnn_jax.layers.normalization import BatchNorm
from cnn_jax.layers.types import Activation, ModuleFactory


@dataclasses.dataclass(frozen=True)
class BranchConv:
    """One convolution of a branch, with its normalisation and activation.

    Attributes:
      features: The number of output channels.
      kernel_size: The filter's spatial size: an integer, or one for each dimension.
      strides: The step between two placements.
      padding: As in `ConvNormActivation`: None keeps the size at odd kernels.
    """

    features: int
    kernel_size: int | tuple[int, ...] = 1
    strides: int = 1
    padding: int | None = None


BranchStep = BranchConv | tuple[BranchConv, ...] | Callable[[jax.Array], jax.Array]
"""A convolution, several of the same input side by side, or a function (a pooling)."""


class Branches(nn.Module):
    """Applies every branch to the input and concatenates the outputs.

    Submodules: `branch{i}_conv{j}` for the `j`-th convolution of the `i`-th branch,
    both counted from 1; where several stand side by side, `branch{i}_conv{j}a`,
    `branch{i}_conv{j}b`, ...

    Attributes:
      branches: The steps of each branch.
      conv: Makes the convolutions.
      norm: Makes the normalisations.
      activation: Applied after each normalisation.
    """

    branches: tuple[tuple[BranchStep, ...], ...]
    conv: ModuleFactory = Conv
    norm: ModuleFactory = BatchNorm
    activation: Activation = K.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, h, w, c)` mapped to `(n, h', w', sum of features)`."""
        outputs = []
        for number, steps in enumerate(self.branches, start=1):
            y, count = x, 0
            for step in steps:
                if callable(step):
                    y = step(y)
                    continue
                count += 1
                name = f"branch{number}_conv{count}"
                if isinstance(step, BranchConv):
                    y = self._convolve(step, y, name)
                else:
                    beside = [
                        self._convolve(each, y, name + letter)
                        for each, letter in zip(step, "abcdefgh", strict=False)
                    ]
                    y = jnp.concatenate(beside, axis=-1)
            outputs.append(y)
        return jnp.concatenate(outputs, axis=-1)

    def _convolve(self, step: BranchConv, x: jax.Array, name: str) -> jax.Array:
        return ConvNormActivation(
            **dataclasses.asdict(step),
            conv=self.conv,
            norm=self.norm,
            activation=self.activation,
            name=name,
        )(x)
