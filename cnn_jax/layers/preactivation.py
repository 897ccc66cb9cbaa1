"""Residual blocks in which normalisation and activation stand before a convolution.

Nothing follows the sum, so the input passes from block to block as it is. Where the
shape changes, a 1x1 convolution of the activated input takes its place; it reads what
the branch reads and needs no normalisation of its own.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax

from cnn_jax import kernels as K
from cnn_jax.layers.conv_norm import normalize_and_activate
from cnn_jax.layers.convolution import Conv
from cnn_jax.layers.normalization import BatchNorm
from cnn_jax.layers.types import Activation, ModuleFactory


class PreactivationBasicBlock(nn.Module):
    """`BasicBlock` in the order of He et al. 2016: two 3x3 convolutions.

    Submodules: `norm1`, `conv1`, `norm2`, `dropout`, `conv2` and, where the shape
    changes, `shortcut`.

    Attributes:
      features: The number of output channels.
      strides: The first convolution's strides.
      conv: Makes the convolutions, which have no bias.
      norm: Makes the normalisations.
      activation: Applied after each normalisation.
      dropout: Makes the layer before the last convolution that drops activations, or
        None.
    """

    features: int
    strides: int = 1
    conv: ModuleFactory = Conv
    norm: ModuleFactory = BatchNorm
    activation: Activation = K.relu
    dropout: ModuleFactory | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, h, w, c)` mapped to `(n, h', w', features)`."""
        conv = functools.partial(self.conv, self.features, use_bias=False)
        y = normalize_and_activate(x, self.norm(name="norm1"), self.activation)
        if self.strides != 1 or x.shape[-1] != self.features:
            x = conv(1, strides=self.strides, padding=0, name="shortcut")(y)
        y = conv(3, strides=self.strides, padding=1, name="conv1")(y)
        y = normalize_and_activate(y, self.norm(name="norm2"), self.activation)
        if self.dropout is not None:
            y = self.dropout(name="dropout")(y)
        return x + conv(3, padding=1, name="conv2")(y)


class PreactivationBottleneck(nn.Module):
    """`Bottleneck` in the order of He et al. 2016: 1x1, 3x3 and 1x1 convolutions.

    The strides are the 3x3 convolution's, as in `Bottleneck`.

    Submodules: `norm1`, `conv1`, `norm2`, `conv2`, `norm3`, `dropout`, `conv3` and,
    where the shape changes, `shortcut`.

    Attributes:
      features: The number of output channels.
      strides: The 3x3 convolution's strides.
      inner_ratio: The 3x3 convolution's channels, as a fraction of `features`.
      conv: Makes the convolutions, which have no bias.
      norm: Makes the normalisations.
      activation: Applied after each normalisation.
      dropout: Makes the layer before the last convolution that drops activations, or
        None.
    """

    features: int
    strides: int = 1
    inner_ratio: float = 0.25
    conv: ModuleFactory = Conv
    norm: ModuleFactory = BatchNorm
    activation: Activation = K.relu
    dropout: ModuleFactory | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, h, w, c)` mapped to `(n, h', w', features)`."""
        conv = functools.partial(self.conv, use_bias=False)
        inner = int(self.features * self.inner_ratio)
        y = normalize_and_activate(x, self.norm(name="norm1"), self.activation)
        if self.strides != 1 or x.shape[-1] != self.features:
            x = conv(
                self.features, 1, strides=self.strides, padding=0, name="shortcut"
            )(y)
        y = conv(inner, 1, padding=0, name="conv1")(y)
        y = normalize_and_activate(y, self.norm(name="norm2"), self.activation)
        y = conv(inner, 3, strides=self.strides, padding=1, name="conv2")(y)
        y = normalize_and_activate(y, self.norm(name="norm3"), self.activation)
        if self.dropout is not None:
            y = self.dropout(name="dropout")(y)
        return x + conv(self.features, 1, padding=0, name="conv3")(y)
