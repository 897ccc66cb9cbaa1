"""MobileNet (Howard et al. 2017), the first of three.

Nearly all of a network's multiply-adds go into 3x3 convolutions that filter space and
mix channels at once. So do one after the other: a depthwise convolution filters each
channel on its own, a 1x1 convolution mixes them, and the two together cost eight to
nine times less than the one that they stand for. One number, the width multiplier,
thins every layer alike, so that a whole range of sizes comes from one design.

It opened the race for accuracy on a phone's budget, and the depthwise separable
convolution has been the mobile networks' building material ever since.

    model              parameters     MACs/M   top-1/%
    mobilenet_v1        4,231,976      568.7     70.60
    mobilenet_v1_0_75   2,585,560      325.4     68.40
    mobilenet_v1_0_5    1,331,592      149.5     63.70
    mobilenet_v1_0_25     470,072       41.0     50.60

Top-1 is the paper's (table 6), for images of 224x224. All follows Keras: activations
are cut off at 6; the first convolution is padded as "SAME", and depthwise convolutions
with strides by one row below and one column on the right, which is the same for even
sizes only; batch normalisation has epsilon 1e-3, keeps 0.99 of the old statistics and
tracks the biased variance; images are scaled to [-1, 1]. Keras' last layer is a 1x1
convolution on the pooled features; here it is a `Dense`. Filters start from He's normal
distribution. Any image of at least 32x32 is accepted.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import kernels as K
from cnn_jax.layers import (
    BatchNorm,
    ConvNormActivation,
    Dense,
    DepthwiseSeparable,
    Dropout,
    ModuleFactory,
    layer_factories,
    rematerialized,
)
from cnn_jax.layers.types import Activation, Dtype
from cnn_jax.models.interface import ImageNetwork, Output, check_images, finish
from cnn_jax.models.registry import Family, Variant


class MobileNetV1(ImageNetwork):
    """A stem and stages of depthwise separable convolutions.

    Every stage but the first halves the resolution at its start.

    Attributes:
      stage_sizes: The number of blocks in each stage.
      stage_features: The number of output channels, stage by stage.
      stem_features: The number of channels after the first convolution.
      width: What all numbers of channels are multiplied by.
      dropout_rate: The probability of dropping one of the pooled features in training.
      num_classes: The number of logits, or 0 for the pooled features.
      norm: Makes the normalisations; it gets `use_running_average`, `dtype` and
        `param_dtype`.
      activation: Applied after each normalisation.
      space_to_depth: Whether to compute the stem by `SpaceToDepthConv`.
      remat: Whether the backward pass recomputes what is inside the blocks.
      dtype: The dtype of the computation.
      param_dtype: The dtype in which the parameters are stored.
    """

    stage_sizes: tuple[int, ...] = (1, 2, 2, 6, 2)
    stage_features: tuple[int, ...] = (64, 128, 256, 512, 1024)
    stem_features: int = 32
    width: float = 1.0
    dropout_rate: float = 1e-3
    num_classes: int = 1000
    norm: ModuleFactory = functools.partial(BatchNorm, momentum=0.99, epsilon=1e-3)
    activation: Activation = K.relu6
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
          x: Normalised images.
          train: Whether batches are normalised by their own statistics and features
            are dropped (which needs `rngs={"dropout": key}`).
          endpoints: Whether to return `(logits, {"stem", "stage1", ...,
            "features"})`.
        """
        check_images(self, x, minimum_size=2 ** len(self.stage_sizes))
        make = layer_factories(self, train=train, space_to_depth=self.space_to_depth)
        block = rematerialized(DepthwiseSeparable) if self.remat else DepthwiseSeparable
        named = {}

        x = ConvNormActivation(
            int(self.stem_features * self.width),
            3,
            strides=2,
            padding="SAME",
            conv=make.stem_conv,
            norm=make.norm,
            activation=self.activation,
            name="stem",
        )(x)
        named["stem"] = x
        stages = zip(self.stage_sizes, self.stage_features, strict=True)
        for stage, (num_blocks, features) in enumerate(stages, start=1):
            for index in range(1, num_blocks + 1):
                halves = stage > 1 and index == 1
                x = block(
                    int(features * self.width),
                    strides=2 if halves else 1,
                    padding=((0, 1), (0, 1)) if halves else "SAME",
                    conv=make.conv,
                    norm=make.norm,
                    depthwise_activation=self.activation,
                    pointwise_activation=self.activation,
                    name=f"stage{stage}_block{index}",
                )(x)
            named[f"stage{stage}"] = x
        x = named["features"] = K.global_avg_pool(x)
        if self.num_classes:
            x = Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
            x = Dense(self.num_classes, **make.dtypes, name="head")(x)
        return finish(x, named, endpoints)


FAMILIES = (
    Family(
        name="mobilenet_v1",
        module=MobileNetV1,
        paper=(
            "Howard et al., MobileNets: Efficient Convolutional Neural Networks for "
            "Mobile Vision Applications"
        ),
        year=2017,
        url="https://arxiv.org/abs/1704.04861",
        top1_source="ImageNet; the paper's table 6",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        variants={
            "mobilenet_v1": Variant(
                parameters=4_231_976,
                macs=568_740_352,
                top1=70.6,
            ),
            "mobilenet_v1_0_75": Variant(
                parameters=2_585_560,
                macs=325_400_448,
                fields={"width": 0.75},
                top1=68.4,
            ),
            "mobilenet_v1_0_5": Variant(
                parameters=1_331_592,
                macs=149_497_088,
                fields={"width": 0.5},
                top1=63.7,
            ),
            "mobilenet_v1_0_25": Variant(
                parameters=470_072,
                macs=41_030_272,
                fields={"width": 0.25},
                top1=50.6,
            ),
        },
    ),
)
