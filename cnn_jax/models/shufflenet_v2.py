"""ShuffleNet v2 (Ma, Zhang, Zheng and Sun 2018).

Networks of equal multiply-adds differ several times in speed, because memory traffic
and parallelism count as well. The paper measures both and draws four guidelines: as
many channels in as out of a 1x1 convolution, few groups, few parallel branches, few
elementwise operations. So a unit here splits the channels, passes one half on as it is,
filters the other at constant width and joins the two by concatenation, where others
add; a channel shuffle then lets the halves mix in the next unit.

It taught designers of small networks to judge by the clock and not by the count.

    model              parameters     MACs/M   top-1/%
    shufflenet_v2_x0_5  1,366,792       40.5     60.55
    shufflenet_v2_x1_0  2,278,604      144.9     69.36
    shufflenet_v2_x1_5  3,503,624      295.8     73.00
    shufflenet_v2_x2_0  7,393,996      583.3     76.23

Top-1 is torchvision's, of its weights IMAGENET1K_V1. Padding is 1 on every side, batch
normalisation has epsilon 1e-5, keeps 0.9 of the old statistics and, like PyTorch's,
tracks the unbiased variance. Filters start from He's normal distribution. Any image of
at least 32x32 is accepted.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import kernels as K
from cnn_jax.geometry import MaxPool
from cnn_jax.layers import (
    BatchNorm,
    Conv,
    ConvNormActivation,
    Dense,
    DepthwiseSeparable,
    ModuleFactory,
    layer_factories,
    rematerialized,
)
from cnn_jax.layers.types import (
    Activation,
    ConvAndNorm,
    Dtype,
    NormAndActivation,
)
from cnn_jax.models.interface import ImageNetwork, Output, check_images, finish
from cnn_jax.models.registry import Family, Variant


def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Returns the channels of `x` `(..., c)` dealt out group by group.

    The first channel of each group comes first, then the second of each, and so on.

    Args:
      x: Activations `(..., c)`.
      groups: How many groups of consecutive channels there are; it divides `c`.
    """
    *leading, channels = x.shape
    grouped = x.reshape(*leading, groups, channels // groups)
    return grouped.swapaxes(-1, -2).reshape(x.shape)


class ShuffleUnit(nn.Module):
    """Half of the channels passed on, half of them filtered, and both shuffled.

    With strides both halves are made from all channels, the first by a depthwise
    separable convolution.

    Submodules: `shortcut` (with strides), `pointwise` and `separable`.

    Attributes:
      features: The number of output channels, an even one; without strides, that of
        the input.
      strides: The depthwise convolutions' strides.
      conv: Makes the convolutions.
      norm: Makes the normalisations.
      activation: Applied after each 1x1 convolution, and not after depthwise ones.
    """

    features: int
    strides: int = 1
    conv: ModuleFactory = Conv
    norm: ModuleFactory = BatchNorm
    activation: Activation = K.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, *spatial, c)` mapped to `(n, *out, features)`."""
        half = self.features // 2
        make: ConvAndNorm = {"conv": self.conv, "norm": self.norm}
        separable = functools.partial(
            DepthwiseSeparable,
            half,
            strides=self.strides,
            depthwise_activation=None,
            pointwise_activation=self.activation,
            **make,
        )
        if self.strides == 1:
            shortcut, x = x[..., :half], x[..., half:]
        else:
            shortcut = separable(name="shortcut")(x)
        x = ConvNormActivation(
            half, 1, activation=self.activation, **make, name="pointwise"
        )(x)
        x = separable(name="separable")(x)
        return channel_shuffle(jnp.concatenate([shortcut, x], axis=-1), 2)


class ShuffleNetV2(ImageNetwork):
    """A stem, stages of which each halves the resolution, and a 1x1 convolution.

    Attributes:
      stage_features: The number of output channels, stage by stage.
      last_features: The number of channels after the last convolution.
      stage_sizes: The number of units in each stage.
      stem_features: The number of channels after the first convolution.
      num_classes: The number of logits, or 0 for the pooled features.
      norm: Makes the normalisations; it gets `use_running_average`, `dtype` and
        `param_dtype`.
      activation: Applied after the stem and after each 1x1 convolution.
      space_to_depth: Whether to compute the stem by `SpaceToDepthConv`.
      remat: Whether the backward pass recomputes what is inside the units.
      dtype: The dtype of the computation.
      param_dtype: The dtype in which the parameters are stored.
    """

    stage_features: tuple[int, ...]
    last_features: int = 1024
    stage_sizes: tuple[int, ...] = (4, 8, 4)
    stem_features: int = 24
    num_classes: int = 1000
    norm: ModuleFactory = functools.partial(BatchNorm, unbiased_running_var=True)
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
          x: Normalised images.
          train: Whether batches are normalised by their own statistics.
          endpoints: Whether to return `(logits, {"stem", "stage1", ..., "last_conv",
            "features"})`.
        """
        smallest = 2 ** (len(self.stage_sizes) + 2)
        check_images(self, x, minimum_size=smallest)
        make = layer_factories(self, train=train, space_to_depth=self.space_to_depth)
        parts: NormAndActivation = {"norm": make.norm, "activation": self.activation}
        unit = rematerialized(ShuffleUnit) if self.remat else ShuffleUnit
        named = {}

        x = ConvNormActivation(
            self.stem_features,
            3,
            strides=2,
            conv=make.stem_conv,
            pool=MaxPool(3, strides=2, padding=1),
            **parts,
            name="stem",
        )(x)
        named["stem"] = x
        stages = zip(self.stage_sizes, self.stage_features, strict=True)
        for stage, (num_units, features) in enumerate(stages, start=1):
            for index in range(1, num_units + 1):
                x = unit(
                    features,
                    strides=2 if index == 1 else 1,
                    conv=make.conv,
                    **parts,
                    name=f"stage{stage}_block{index}",
                )(x)
            named[f"stage{stage}"] = x
        x = ConvNormActivation(
            self.last_features, 1, conv=make.conv, **parts, name="last_conv"
        )(x)
        named["last_conv"] = x
        x = named["features"] = K.global_avg_pool(x)
        if self.num_classes:
            x = Dense(self.num_classes, **make.dtypes, name="head")(x)
        return finish(x, named, endpoints)


FAMILIES = (
    Family(
        name="shufflenet_v2",
        module=ShuffleNetV2,
        paper=(
            "Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN "
            "Architecture Design"
        ),
        year=2018,
        url="https://arxiv.org/abs/1807.11164",
        top1_source="ImageNet; torchvision's weights IMAGENET1K_V1",
        variants={
            "shufflenet_v2_x0_5": Variant(
                parameters=1_366_792,
                macs=40_476_448,
                fields={"stage_features": (48, 96, 192)},
                top1=60.552,
            ),
            "shufflenet_v2_x1_0": Variant(
                parameters=2_278_604,
                macs=144_907_992,
                fields={"stage_features": (116, 232, 464)},
                top1=69.362,
            ),
            "shufflenet_v2_x1_5": Variant(
                parameters=3_503_624,
                macs=295_759_392,
                fields={"stage_features": (176, 352, 704)},
                top1=72.996,
                preprocessing={"crop_fraction": 224 / 232},
            ),
            "shufflenet_v2_x2_0": Variant(
                parameters=7_393_996,
                macs=583_253_464,
                fields={"stage_features": (244, 488, 976), "last_features": 2048},
                top1=76.230,
                preprocessing={"crop_fraction": 224 / 232},
            ),
        },
    ),
)
