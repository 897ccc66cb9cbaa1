"""Xception (Chollet 2016).

An Inception block looks for patterns across space and across channels apart from each
other, but not quite: take that to its end. Each convolution becomes a depthwise one,
which filters every channel on its own, and a pointwise one, which mixes the channels at
every pixel (a "separable" convolution). With residual shortcuts around every two or
three of them the network needs no other structure.

At Inception v3's size it was more accurate, and it made the separable convolution,
which MobileNet took up the year after, a standard part of small and fast networks.

    model       parameters     MACs/M   top-1/%
    xception    22,855,952    8,357.4     79.00

Top-1 is Keras's, of its ImageNet weights, and the paper's.

As in Keras, the paper's entry, middle and exit flow with images in [-1, 1]: the two
first convolutions are not padded, everywhere else padding is "SAME", which puts an odd
row behind. Batch normalisation has epsilon 1e-3, keeps 0.99 of the old statistics and
tracks the biased variance. Filters start from He's normal distribution. Any image of at
least 7x7 is accepted.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import kernels as K
from cnn_jax.layers import (
    BatchNorm,
    Conv,
    ConvNormActivation,
    ModuleFactory,
    layer_factories,
    normalize_and_activate,
    projection_shortcut,
    rematerialized,
)
from cnn_jax.layers.residual import Shortcut
from cnn_jax.layers.types import Activation, ConvAndNorm, Dtype
from cnn_jax.models.interface import ImageNetwork, Output, check_images, finish
from cnn_jax.models.registry import Family, Variant


class SeparableConv(nn.Module):
    """A 3x3 filter for each channel, a 1x1 convolution, a norm and an activation.

    Submodules: `depthwise`, `pointwise` and `norm`.

    Attributes:
      features: The number of output channels.
      conv: Makes the convolutions, which have no bias.
      norm: Makes the normalisation after both.
      activation: Applied last, or None.
    """

    features: int
    conv: ModuleFactory = Conv
    norm: ModuleFactory = BatchNorm
    activation: Activation | None = K.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, h, w, c)` mapped to `(n, h, w, features)`."""
        conv = functools.partial(self.conv, use_bias=False)
        x = conv(x.shape[-1], 3, groups=x.shape[-1], name="depthwise")(x)
        x = conv(self.features, 1, name="pointwise")(x)
        return normalize_and_activate(x, self.norm(name="norm"), self.activation)


class XceptionBlock(nn.Module):
    """Separable convolutions with activations between them, and a shortcut around.

    Submodules: `conv1`, `conv2`, ... and what `shortcut` makes.

    Attributes:
      features: The number of output channels of each separable convolution.
      strides: Those of the max-pool at the branch's end; 1 for no pooling.
      activates_input: Whether the branch begins with an activation, for blocks behind
        a sum.
      shortcut: Maps the input to the branch's shape; or None for no shortcut, where
        the last convolution is activated too.
      conv: Makes the convolutions.
      norm: Makes the normalisations.
      activation: Applied between the convolutions.
    """

    features: tuple[int, ...]
    strides: int = 1
    activates_input: bool = True
    shortcut: Shortcut | None = projection_shortcut
    conv: ModuleFactory = Conv
    norm: ModuleFactory = BatchNorm
    activation: Activation = K.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, h, w, c)` mapped to `(n, h', w', features[-1])`."""
        make: ConvAndNorm = {"conv": self.conv, "norm": self.norm}
        y = self.activation(x) if self.activates_input else x
        for number, features in enumerate(self.features, start=1):
            is_inside = number < len(self.features) or self.shortcut is None
            y = SeparableConv(
                features,
                activation=self.activation if is_inside else None,
                **make,
                name=f"conv{number}",
            )(y)
        if self.strides > 1:
            y = K.max_pool(y, 3, strides=self.strides, padding="SAME")
        if self.shortcut is None:
            return y
        return y + self.shortcut(x, self.features[-1], self.strides, **make)


# The entry flow's last block and the middle flow's eight have the same resolution.
_STAGES = (
    ({"features": (128, 128), "strides": 2, "activates_input": False},),
    ({"features": (256, 256), "strides": 2},),
    ({"features": (728, 728), "strides": 2}, *({"features": (728,) * 3},) * 8),
    (
        {"features": (728, 1024), "strides": 2},
        {"features": (1536, 2048), "activates_input": False, "shortcut": None},
    ),
)


class Xception(ImageNetwork):
    """A convolutional stem and four stages of blocks of separable convolutions.

    Attributes:
      num_classes: The number of logits, or 0 for the pooled features.
      norm: Makes the normalisations; it gets `use_running_average`, `dtype` and
        `param_dtype`.
      activation: Applied between the convolutions.
      space_to_depth: Whether to compute the first convolution by `SpaceToDepthConv`.
      remat: Whether the backward pass recomputes what is inside the blocks.
      dtype: The dtype of the computation.
      param_dtype: The dtype in which the parameters are stored.
    """

    num_classes: int = 1000
    norm: ModuleFactory = functools.partial(BatchNorm, epsilon=1e-3, momentum=0.99)
    activation: Activation = K.relu
    space_to_depth: bool = False
    remat: bool = False
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> Output:
        """Returns the logits of images `x` `(n, height, width, channels)`.

        Args:
          x: Images scaled to [-1, 1].
          train: Whether batches are normalised by their own statistics.
          endpoints: Whether to return `(logits, {"stem", "stage1", ...,
            "features"})`.
        """
        check_images(self, x, minimum_size=7)
        make = layer_factories(self, train=train, space_to_depth=self.space_to_depth)
        layer = functools.partial(
            ConvNormActivation, padding=0, norm=make.norm, activation=self.activation
        )
        block = rematerialized(XceptionBlock) if self.remat else XceptionBlock
        block = functools.partial(
            block, conv=make.conv, norm=make.norm, activation=self.activation
        )
        named = {}

        x = layer(32, 3, strides=2, conv=make.stem_conv, name="stem_conv1")(x)
        x = named["stem"] = layer(64, 3, conv=make.conv, name="stem_conv2")(x)
        for stage, blocks in enumerate(_STAGES, start=1):
            for index, fields in enumerate(blocks, start=1):
                x = block(**fields, name=f"stage{stage}_block{index}")(x)
            named[f"stage{stage}"] = x
        x = named["features"] = K.global_avg_pool(x)
        if self.num_classes:
            x = make.dense(self.num_classes, name="head")(x)
        return finish(x, named, endpoints)


FAMILIES = (
    Family(
        name="xception",
        module=Xception,
        paper="Chollet, Xception: Deep Learning with Depthwise Separable Convolutions",
        year=2016,
        url="https://arxiv.org/abs/1610.02357",
        input_shape=(299, 299, 3),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        top1_source="ImageNet; Keras's weights",
        variants={
            "xception": Variant(parameters=22_855_952, macs=8_357_403_496, top1=79.0)
        },
    ),
)
