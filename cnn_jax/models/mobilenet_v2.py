"""MobileNet v2 (Sandler et al. 2018).

The activations that matter span few dimensions, so the tensors between blocks can be
narrow; but a rectifier on a narrow tensor destroys what it cuts off. So each block
widens its input six times, filters and rectifies there, and projects back without an
activation, a linear bottleneck. The shortcut joins the narrow ends, and little memory
is needed at any time.

This inverted bottleneck is the block of nearly all mobile networks after it, found by
search or not: MnasNet, MobileNet v3 and the EfficientNets choose its sizes.

    model          parameters     MACs/M   top-1/%
    mobilenet_v2    3,504,872      300.8     71.88

Top-1 is torchvision's, of its weights IMAGENET1K_V1. Activations are cut off at 6.
Padding is `(k - 1) / 2` on every side, batch normalisation has epsilon 1e-5, keeps 0.9
of the old statistics and, like PyTorch's, tracks the unbiased variance. Filters start
from He's normal distribution. Any image of at least 32x32 is accepted.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import kernels as K
from cnn_jax.layers import (
    BatchNorm,
    ConvNormActivation,
    Dense,
    Dropout,
    InvertedBottleneck,
    ModuleFactory,
    layer_factories,
    rematerialized,
)
from cnn_jax.layers.types import Activation, Dtype, NormAndActivation
from cnn_jax.models.interface import ImageNetwork, Output, check_images, finish
from cnn_jax.models.registry import Family, Variant


@dataclasses.dataclass(frozen=True)
class Stage:
    """A run of inverted bottlenecks.

    Attributes:
      features: The number of output channels.
      num_blocks: The number of blocks.
      expansion: How many times wider than its input a block is inside.
      kernel_size: The depthwise filter's size.
      strides: The first block's strides.
    """

    features: int
    num_blocks: int
    expansion: int
    kernel_size: int = 3
    strides: int = 1


class MobileNetV2(ImageNetwork):
    """A stem, stages of inverted bottlenecks, a 1x1 convolution and a classifier.

    Attributes:
      stages: The stages.
      stem_features: The number of channels after the first convolution.
      last_features: The number of channels after the last convolution.
      dropout_rate: The probability of dropping one of the pooled features in training.
      num_classes: The number of logits, or 0 for the pooled features.
      norm: Makes the normalisations; it gets `use_running_average`, `dtype` and
        `param_dtype`.
      activation: Applied after each normalisation but the projections'.
      space_to_depth: Whether to compute the stem by `SpaceToDepthConv`.
      remat: Whether the backward pass recomputes what is inside the blocks.
      dtype: The dtype of the computation.
      param_dtype: The dtype in which the parameters are stored.
    """

    stages: tuple[Stage, ...]
    stem_features: int = 32
    last_features: int = 1280
    dropout_rate: float = 0.2
    num_classes: int = 1000
    norm: ModuleFactory = functools.partial(BatchNorm, unbiased_running_var=True)
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
          endpoints: Whether to return `(logits, {"stem", "stage1", ..., "last_conv",
            "features"})`.
        """
        smallest = 2 * math.prod(stage.strides for stage in self.stages)
        check_images(self, x, minimum_size=smallest)
        make = layer_factories(self, train=train, space_to_depth=self.space_to_depth)
        parts: NormAndActivation = {"norm": make.norm, "activation": self.activation}
        block = rematerialized(InvertedBottleneck) if self.remat else InvertedBottleneck
        named = {}

        x = ConvNormActivation(
            self.stem_features,
            3,
            strides=2,
            conv=make.stem_conv,
            **parts,
            name="stem",
        )(x)
        named["stem"] = x
        for number, stage in enumerate(self.stages, start=1):
            for index in range(1, stage.num_blocks + 1):
                x = block(
                    stage.features,
                    x.shape[-1] * stage.expansion,
                    kernel_size=stage.kernel_size,
                    strides=stage.strides if index == 1 else 1,
                    conv=make.conv,
                    **parts,
                    name=f"stage{number}_block{index}",
                )(x)
            named[f"stage{number}"] = x
        x = ConvNormActivation(
            self.last_features, 1, conv=make.conv, **parts, name="last_conv"
        )(x)
        named["last_conv"] = x
        x = named["features"] = K.global_avg_pool(x)
        if self.num_classes:
            x = Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
            x = Dense(self.num_classes, **make.dtypes, name="head")(x)
        return finish(x, named, endpoints)


FAMILIES = (
    Family(
        name="mobilenet_v2",
        module=MobileNetV2,
        paper="Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks",
        year=2018,
        url="https://arxiv.org/abs/1801.04381",
        top1_source="ImageNet; torchvision's weights IMAGENET1K_V1",
        preprocessing_by_source={"timm": {"interpolation": "bicubic"}},
        variants={
            "mobilenet_v2": Variant(
                parameters=3_504_872,
                macs=300_774_272,
                fields={
                    "stages": (
                        Stage(16, 1, expansion=1),
                        Stage(24, 2, expansion=6, strides=2),
                        Stage(32, 3, expansion=6, strides=2),
                        Stage(64, 4, expansion=6, strides=2),
                        Stage(96, 3, expansion=6),
                        Stage(160, 3, expansion=6, strides=2),
                        Stage(320, 1, expansion=6),
                    ),
                },
                top1=71.878,
            ),
        },
    ),
)
