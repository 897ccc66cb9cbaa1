"""The inverted bottleneck of the mobile networks, and its fused form."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax

from cnn_jax import geometry
from cnn_jax import kernels as K
from cnn_jax.layers.conv_norm import ConvNormActivation
from cnn_jax.layers.convolution import Conv
from cnn_jax.layers.normalization import BatchNorm
from cnn_jax.layers.types import Activation, ConvAndNorm, ModuleFactory


class InvertedBottleneck(nn.Module):
    """Expand, filter each channel, project: the block of MobileNetV2 (Sandler 2018).

    Narrow tensors run between blocks and wide ones only inside. The shortcut joins the
    narrow ends, where strides and channels allow it; the projection has no activation.

    Submodules: `expand` (absent where the input already has `hidden_features`
    channels), `depthwise`, `squeeze_excite`, `project`, `stochastic_depth`.

    Attributes:
      features: The number of output channels.
      hidden_features: The number of channels inside.
      kernel_size: The depthwise filter's size.
      strides: The depthwise convolution's strides.
      padding: The depthwise convolution's, as in `ConvNormActivation`.
      conv: Makes the convolutions.
      norm: Makes the normalisations.
      activation: Applied after the expansion and after the depthwise convolution.
      squeeze_excite: Makes the channel gate, or None.
      stochastic_depth: Makes the layer that drops the branch before it joins the
        shortcut, or None.
    """

    features: int
    hidden_features: int
    kernel_size: int | Sequence[int] = 3
    strides: int = 1
    padding: geometry.Padding | None = None
    conv: ModuleFactory = Conv
    norm: ModuleFactory = BatchNorm
    activation: Activation = K.silu
    squeeze_excite: ModuleFactory | None = None
    stochastic_depth: ModuleFactory | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, *spatial, c)` mapped to `(n, *out, features)`."""
        shortcut = x
        hidden = self.hidden_features
        joins = self.strides == 1 and x.shape[-1] == self.features
        make: ConvAndNorm = {"conv": self.conv, "norm": self.norm}
        if x.shape[-1] != hidden:
            x = ConvNormActivation(
                hidden, 1, activation=self.activation, **make, name="expand"
            )(x)
        x = ConvNormActivation(
            hidden,
            self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            groups=hidden,
            activation=self.activation,
            **make,
            name="depthwise",
        )(x)
        if self.squeeze_excite is not None:
            x = self.squeeze_excite(name="squeeze_excite")(x)
        x = ConvNormActivation(
            self.features, 1, activation=None, **make, name="project"
        )(x)
        if not joins:
            return x
        if self.stochastic_depth is not None:
            x = self.stochastic_depth(name="stochastic_depth")(x)
        return x + shortcut


class FusedInvertedBottleneck(nn.Module):
    """The inverted bottleneck with one full convolution for the first two (2020).

    A depthwise convolution has few multiply-adds, but keeps no matrix unit busy. Where
    channels are few, a full convolution that expands and filters at once is faster.

    Submodules: `fused`, `project` (absent where nothing is expanded: then `fused` has
    `features` channels) and `stochastic_depth`.

    Attributes:
      features: The number of output channels.
      hidden_features: The number of channels inside.
      kernel_size: The full filter's size.
      strides: The full convolution's strides.
      padding: The full convolution's, as in `ConvNormActivation`.
      conv: Makes the convolutions.
      norm: Makes the normalisations.
      activation: Applied after the full convolution.
      stochastic_depth: Makes the layer that drops the branch before it joins the
        shortcut, or None.
    """

    features: int
    hidden_features: int
    kernel_size: int | Sequence[int] = 3
    strides: int = 1
    padding: geometry.Padding | None = None
    conv: ModuleFactory = Conv
    norm: ModuleFactory = BatchNorm
    activation: Activation = K.silu
    stochastic_depth: ModuleFactory | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, *spatial, c)` mapped to `(n, *out, features)`."""
        shortcut = x
        expands = x.shape[-1] != self.hidden_features
        joins = self.strides == 1 and x.shape[-1] == self.features
        make: ConvAndNorm = {"conv": self.conv, "norm": self.norm}
        x = ConvNormActivation(
            self.hidden_features if expands else self.features,
            self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            activation=self.activation,
            **make,
            name="fused",
        )(x)
        if expands:
            x = ConvNormActivation(
                self.features, 1, activation=None, **make, name="project"
            )(x)
        if not joins:
            return x
        if self.stochastic_depth is not None:
            x = self.stochastic_depth(name="stochastic_depth")(x)
        return x + shortcut


def round_channels(number: float, divisor: int = 8) -> int:
    """Returns the multiple of `divisor` next to a scaled number of channels.

    Never less than 0.9 of it. Mobile networks are scaled so, since matrix units work on
    8 channels at a time.
    """
    rounded = max(divisor, int(number + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * number else rounded
