"""Residual blocks: a branch, a shortcut around it, and the activation of their sum.

The shortcut is a function that the block calls with its input and the factories of
its own layers, so one block serves networks that differ in nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import kernels as K
from cnn_jax.layers.conv_norm import ConvNormActivation
from cnn_jax.layers.convolution import Conv
from cnn_jax.layers.normalization import BatchNorm
from cnn_jax.layers.types import Activation, ConvAndNorm, ModuleFactory

Shortcut = Callable[..., jax.Array]
"""`(x, features, strides, *, conv, norm) -> (n, h', w', features)`."""


def projection_shortcut(
    x: jax.Array,
    features: int,
    strides: int,
    *,
    conv: ModuleFactory,
    norm: ModuleFactory,
) -> jax.Array:
    """Returns `x`, or where its shape must change a 1x1 convolution of it (option B).

    To be called in a module, whose submodule `shortcut` the convolution becomes.

    Args:
      x: Activations `(n, h, w, c)`.
      features: The number of output channels.
      strides: The step between two pixels.
      conv: Makes the convolution.
      norm: Makes the normalisation after it.
    """
    if strides == 1 and x.shape[-1] == features:
        return x
    return ConvNormActivation(
        features,
        1,
        strides=strides,
        conv=conv,
        norm=norm,
        activation=None,
        name="shortcut",
    )(x)


def zero_padded_shortcut(
    x: jax.Array, features: int, strides: int, **unused_factories: ModuleFactory
) -> jax.Array:
    """Returns every `strides`-th pixel, with zeros for the missing channels (option A).

    Args:
      x: Activations `(n, h, w, c)`.
      features: The number of output channels, at least `c`.
      strides: The step between two pixels.
      **unused_factories: Accepted for the common call.

    Returns:
      An array `(n, ceil(h / strides), ceil(w / strides), features)`; half of the new
      channels stand in front of the old ones.

    Raises:
      ValueError: If `features` is less than `c`.
    """
    missing = features - x.shape[-1]
    if missing < 0:
        raise ValueError(
            f"features: got {features}, expected at least the {x.shape[-1]} channels "
            "that the shortcut carries."
        )
    front = missing // 2
    return jnp.pad(
        x[:, ::strides, ::strides], ((0, 0), (0, 0), (0, 0), (front, missing - front))
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, and the input added before the last activation.

    Submodules: `conv1`, `conv2`, `squeeze_excite` and what `shortcut` makes.

    Attributes:
      features: The number of output channels.
      strides: The first convolution's strides.
      shortcut: Maps the input to the branch's shape, or None for no shortcut at all.
      conv: Makes the convolutions.
      norm: Makes the normalisations.
      activation: Applied after the first convolution and after the sum.
      squeeze_excite: Makes the channel gate at the branch's end, or None.
      stochastic_depth: Makes what drops the branch in training, or None.
    """

    features: int
    strides: int = 1
    shortcut: Shortcut | None = projection_shortcut
    conv: ModuleFactory = Conv
    norm: ModuleFactory = BatchNorm
    activation: Activation = K.relu
    squeeze_excite: ModuleFactory | None = None
    stochastic_depth: ModuleFactory | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, h, w, c)` mapped to `(n, h', w', features)`."""
        make: ConvAndNorm = {"conv": self.conv, "norm": self.norm}
        layer = functools.partial(ConvNormActivation, self.features, 3, **make)
        y = layer(strides=self.strides, activation=self.activation, name="conv1")(x)
        y = layer(activation=None, name="conv2")(y)
        if self.squeeze_excite is not None:
            y = self.squeeze_excite(name="squeeze_excite")(y)
        if self.stochastic_depth is not None:
            _require_shortcut(self.shortcut)
            y = self.stochastic_depth(name="stochastic_depth")(y)
        if self.shortcut is not None:
            y = y + self.shortcut(x, self.features, self.strides, **make)
        return self.activation(y)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones, and the input added as in `BasicBlock`.

    The strides are the 3x3 convolution's ("v1.5"), not the first 1x1's as in the paper,
    where three quarters of the input would go unseen.

    Submodules: `conv1`, `conv2`, `conv3`, `squeeze_excite` and what `shortcut` makes.

    Attributes:
      features: The number of output channels.
      strides: The 3x3 convolution's strides.
      inner_ratio: The 3x3 convolution's channels, as a fraction of `features`.
      groups: How many blocks the 3x3 convolution's channels are split into.
      shortcut: Maps the input to the branch's shape, or None for no shortcut at all.
      conv: Makes the convolutions.
      norm: Makes the normalisations.
      activation: Applied after each convolution but the last, and after the sum.
      squeeze_excite: Makes the channel gate at the branch's end, or None.
      stochastic_depth: Makes what drops the branch in training, or None.
    """

    features: int
    strides: int = 1
    inner_ratio: float = 0.25
    groups: int = 1
    shortcut: Shortcut | None = projection_shortcut
    conv: ModuleFactory = Conv
    norm: ModuleFactory = BatchNorm
    activation: Activation = K.relu
    squeeze_excite: ModuleFactory | None = None
    stochastic_depth: ModuleFactory | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, h, w, c)` mapped to `(n, h', w', features)`."""
        make: ConvAndNorm = {"conv": self.conv, "norm": self.norm}
        layer = functools.partial(
            ConvNormActivation, activation=self.activation, **make
        )
        inner = int(self.features * self.inner_ratio)
        y = layer(inner, 1, name="conv1")(x)
        y = layer(inner, 3, strides=self.strides, groups=self.groups, name="conv2")(y)
        y = layer(self.features, 1, activation=None, name="conv3")(y)
        if self.squeeze_excite is not None:
            y = self.squeeze_excite(name="squeeze_excite")(y)
        if self.stochastic_depth is not None:
            _require_shortcut(self.shortcut)
            y = self.stochastic_depth(name="stochastic_depth")(y)
        if self.shortcut is not None:
            y = y + self.shortcut(x, self.features, self.strides, **make)
        return self.activation(y)


def _require_shortcut(shortcut: Shortcut | None) -> None:
    if shortcut is None:
        raise ValueError(
            "stochastic_depth: got a block without shortcut, of which nothing would "
            "remain; expected None, or a rate of 0."
        )
