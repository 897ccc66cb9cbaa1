"""A convolution in two factors: space first, channels after."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax

from cnn_jax import geometry
from cnn_jax import kernels as K
from cnn_jax.layers.conv_norm import ConvNormActivation
from cnn_jax.layers.convolution import Conv
from cnn_jax.layers.normalization import BatchNorm
from cnn_jax.layers.types import Activation, ModuleFactory


class DepthwiseSeparable(nn.Module):
    """Filter each channel, then mix the channels: the block of MobileNet (Howard 2017).

    A `k x k` convolution costs `k^2 c f` multiply-adds for each pixel; in these two
    factors it costs `(k^2 + f) c`.

    Submodules: `depthwise` and `pointwise`.

    Attributes:
      features: The number of output channels.
      kernel_size: The depthwise filter's size.
      strides: The depthwise convolution's strides.
      padding: The depthwise convolution's, as in `ConvNormActivation`.
      conv: Makes the convolutions.
      norm: Makes the normalisation after each of them.
      depthwise_activation: Applied between the two, or None.
      pointwise_activation: Applied last, or None.
    """

    features: int
    kernel_size: int | Sequence[int] = 3
    strides: int | Sequence[int] = 1
    padding: geometry.Padding | None = None
    conv: ModuleFactory = Conv
    norm: ModuleFactory | None = BatchNorm
    depthwise_activation: Activation | None = K.relu
    pointwise_activation: Activation | None = K.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, *spatial, c)` mapped to `(n, *out, features)`."""
        x = ConvNormActivation(
            x.shape[-1],
            self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            groups=x.shape[-1],
            activation=self.depthwise_activation,
            conv=self.conv,
            norm=self.norm,
            name="depthwise",
        )(x)
        return ConvNormActivation(
            self.features,
            1,
            activation=self.pointwise_activation,
            conv=self.conv,
            norm=self.norm,
            name="pointwise",
        )(x)
