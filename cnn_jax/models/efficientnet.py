"""EfficientNet (Tan and Le 2019).

Depth, width and resolution are scaled together by one coefficient, because each of
them alone soon stops paying. The network that is scaled was found by search and is
made of inverted bottlenecks (MobileNetV2) with squeeze-and-excite gates and the smooth
activation silu. Residual branches are dropped at random in training, the deeper the
more often (stochastic depth).

It moved the comparison of networks from accuracy alone to accuracy against parameters
and multiply-adds, and held the best trade for two years.

`efficientnet_cifar` has those blocks in four stages sized for 32x32 images; a stem
without stride keeps the small image. Filters start from He's normal distribution.

Any image of at least 4x4 is accepted.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import kernels as K
from cnn_jax.layers import (
    BatchNorm,
    Conv,
    ConvNormActivation,
    Dense,
    Dropout,
    InvertedBottleneck,
    ModuleFactory,
    SqueezeExcite,
    StochasticDepth,
)
from cnn_jax.layers.types import Activation, Dtype
from cnn_jax.models.interface import check_images, finish
from cnn_jax.models.registry import CIFAR10_MEAN, CIFAR10_STD, Family, Variant


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
    kernel_size: int
    strides: int


class EfficientNet(nn.Module):
    """A stem, stages of inverted bottlenecks, a 1x1 convolution and a classifier.

    Attributes:
      stages: The stages.
      stem_features: The number of channels after the first convolution.
      stem_strides: The first convolution's strides.
      head_features: The number of channels after the last convolution.
      squeeze_ratio: A gate's inner features, as a fraction of its block's input.
      dropout_rate: The probability of dropping one of the pooled features in training.
      stochastic_depth_rate: That of dropping a residual branch, which grows linearly
        from 0 at the first block towards this rate at the end.
      num_classes: The number of logits, or 0 for the pooled features.
      norm: Makes the normalisations; it gets `use_running_average`, `dtype` and
        `param_dtype`.
      activation: Applied after each normalisation and inside the gates.
      dtype: The dtype of the computation.
      param_dtype: The dtype in which the parameters are stored.
    """

    stages: tuple[Stage, ...]
    stem_features: int
    stem_strides: int
    head_features: int
    squeeze_ratio: float = 0.25
    dropout_rate: float = 0.2
    stochastic_depth_rate: float = 0.2
    num_classes: int = 10
    norm: ModuleFactory = BatchNorm
    activation: Activation = K.silu
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, endpoints: bool = False):
        """Returns the logits of images `x` `(n, height, width, channels)`.

        Args:
          x: Normalised images.
          train: Whether batches are normalised by their own statistics and branches
            and features are dropped (which needs `rngs={"dropout": key}`).
          endpoints: Whether to return `(logits, {"stem", "stage1", ..., "last_conv",
            "features"})`.
        """
        total_strides = self.stem_strides
        for stage in self.stages:
            total_strides *= stage.strides
        check_images(x, minimum_size=total_strides, model="EfficientNet")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
        parts = {
            "conv": functools.partial(Conv, kernel_init=he_normal, **dtypes),
            "norm": functools.partial(
                self.norm, use_running_average=not train, **dtypes
            ),
            "activation": self.activation,
        }
        gate = functools.partial(
            SqueezeExcite,
            dense=functools.partial(Dense, kernel_init=he_normal, **dtypes),
            activation=self.activation,
        )
        drop_path = functools.partial(StochasticDepth, deterministic=not train)
        named = {}

        x = ConvNormActivation(
            self.stem_features, 3, strides=self.stem_strides, **parts, name="stem"
        )(x)
        named["stem"] = x
        num_blocks = sum(stage.num_blocks for stage in self.stages)
        block = 0
        for number, stage in enumerate(self.stages, start=1):
            for index in range(1, stage.num_blocks + 1):
                channels = x.shape[-1]
                squeezed = max(1, int(channels * self.squeeze_ratio))
                rate = self.stochastic_depth_rate * block / num_blocks
                x = InvertedBottleneck(
                    stage.features,
                    channels * stage.expansion,
                    kernel_size=stage.kernel_size,
                    strides=stage.strides if index == 1 else 1,
                    squeeze_excite=functools.partial(gate, squeezed),
                    stochastic_depth=functools.partial(drop_path, rate),
                    **parts,
                    name=f"stage{number}_block{index}",
                )(x)
                block += 1
            named[f"stage{number}"] = x
        x = ConvNormActivation(self.head_features, 1, **parts, name="last_conv")(x)
        named["last_conv"] = x
        x = named["features"] = K.global_avg_pool(x)
        if self.num_classes:
            x = Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
            x = Dense(self.num_classes, **dtypes, name="head")(x)
        return finish(x, named, endpoints)


FAMILIES = (
    Family(
        name="efficientnet_cifar",
        module=EfficientNet,
        paper=(
            "Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional "
            "Neural Networks"
        ),
        year=2019,
        url="https://arxiv.org/abs/1905.11946",
        num_classes=10,
        input_shape=(32, 32, 3),
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
        variants={
            "efficientnet_cifar": Variant(
                parameters=281_200,
                macs=19_217_408,
                fields={
                    "stages": (
                        Stage(16, 1, expansion=1, kernel_size=3, strides=1),
                        Stage(24, 3, expansion=4, kernel_size=3, strides=2),
                        Stage(48, 3, expansion=4, kernel_size=5, strides=2),
                        Stage(80, 3, expansion=4, kernel_size=3, strides=1),
                    ),
                    "stem_features": 16,
                    "stem_strides": 1,
                    "head_features": 256,
                },
            )
        },
    ),
)
