"""EfficientNet (Tan and Le 2019).

Depth, width and resolution are scaled together by one coefficient, because each of
them alone soon stops paying. The network that is scaled was found by search and is
made of inverted bottlenecks (MobileNetV2) with squeeze-and-excite gates and the smooth
activation silu. Residual branches are dropped at random in training, the deeper the
more often (stochastic depth).

It moved the comparison of networks from accuracy alone to accuracy against parameters
and multiply-adds, and held the best trade for two years.

    model               parameters      MACs/M   top-1/%
    efficientnet_b0       5,288,548       385.8     77.69
    efficientnet_b1       7,794,184       686.8     78.64
    efficientnet_b2       9,109,994     1,087.5     80.61
    efficientnet_b3      12,233,232     1,827.1     82.01
    efficientnet_b4      19,341,616     4,393.8     83.38
    efficientnet_b5      30,389,784    10,266.4     83.44
    efficientnet_b6      43,040,704    19,067.6     84.01
    efficientnet_b7      66,347,960    37,745.9     84.12
    efficientnet_cifar      281,200        19.2         -

Top-1 is torchvision's, of its weights IMAGENET1K_V1; B2's are for images of 288x288,
where the paper has 260. `efficientnet_cifar` has those blocks in four stages sized for
32x32 images; a stem without stride keeps the small image.

Padding is `(k - 1) / 2` on every side. Batch normalisation tracks the unbiased
variance, as PyTorch's; it has epsilon 1e-5 and keeps 0.9 of the old statistics, but
1e-3 and 0.99 from B5 on. Filters start from He's normal distribution. Any image of at
least 32x32 is accepted; by the network for CIFAR-10, of at least 4x4.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import kernels as K
from cnn_jax.layers import (
    BatchNorm,
    ConvNormActivation,
    Dense,
    Dropout,
    FusedInvertedBottleneck,
    InvertedBottleneck,
    ModuleFactory,
    SqueezeExcite,
    StochasticDepth,
    layer_factories,
    rematerialized,
    round_channels,
)
from cnn_jax.layers.factories import LayerFactories
from cnn_jax.layers.types import Activation, Dtype, NormAndActivation
from cnn_jax.models.interface import ImageNetwork, Output, check_images, finish
from cnn_jax.models.registry import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    Family,
    PaperAndModule,
    Variant,
)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A run of inverted bottlenecks.

    Attributes:
      features: The number of output channels.
      num_blocks: The number of blocks.
      expansion: How many times wider than its input a block is inside.
      kernel_size: The depthwise filter's size.
      strides: The first block's strides.
      fused: Whether the blocks are `FusedInvertedBottleneck`s, which have no gate.
    """

    features: int
    num_blocks: int
    expansion: int
    kernel_size: int
    strides: int
    fused: bool = False


class EfficientNet(ImageNetwork):
    """A stem, stages of inverted bottlenecks, a 1x1 convolution and a classifier.

    Attributes:
      stages: The stages.
      stem_features: The number of channels after the first convolution.
      stem_strides: The first convolution's strides.
      head_features: The number of channels after the last convolution.
      squeeze_ratio: A gate's inner features, as a fraction of its block's input; 0 for
        blocks without gates.
      dropout_rate: The probability of dropping one of the pooled features in training.
      stochastic_depth_rate: That of dropping a residual branch, which grows linearly
        from 0 at the first block towards this rate at the end.
      num_classes: The number of logits, or 0 for the pooled features.
      norm: Makes the normalisations; it gets `use_running_average`, `dtype` and
        `param_dtype`.
      activation: Applied after each normalisation and inside the gates.
      padding: The convolutions'; None for that of `ConvNormActivation`.
      space_to_depth: Whether to compute the first convolution by `SpaceToDepthConv`.
      remat: Whether the backward pass recomputes what is inside the blocks.
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
    num_classes: int = 1000
    norm: ModuleFactory = functools.partial(BatchNorm, unbiased_running_var=True)
    activation: Activation = K.silu
    padding: Literal["SAME", "VALID"] | None = None
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
          train: Whether batches are normalised by their own statistics and branches
            and features are dropped (which needs `rngs={"dropout": key}`).
          endpoints: Whether to return `(logits, {"stem", "stage1", ..., "last_conv",
            "features"})`.
        """
        total_strides = self.stem_strides
        for stage in self.stages:
            total_strides *= stage.strides
        check_images(self, x, minimum_size=total_strides)
        make = layer_factories(self, train=train, space_to_depth=self.space_to_depth)
        parts: NormAndActivation = {"norm": make.norm, "activation": self.activation}
        named = {}

        x = ConvNormActivation(
            self.stem_features,
            3,
            strides=self.stem_strides,
            padding=self.padding,
            conv=make.stem_conv,
            **parts,
            name="stem",
        )(x)
        named["stem"] = x
        num_blocks = sum(stage.num_blocks for stage in self.stages)
        num_before = 0
        for number, stage in enumerate(self.stages, start=1):
            for index in range(1, stage.num_blocks + 1):
                rate = self.stochastic_depth_rate * num_before / num_blocks
                block = _block_factory(self, stage, x.shape[-1], make)
                x = block(
                    strides=stage.strides if index == 1 else 1,
                    stochastic_depth=functools.partial(
                        StochasticDepth, rate, deterministic=not train
                    ),
                    name=f"stage{number}_block{index}",
                )(x)
                num_before += 1
            named[f"stage{number}"] = x
        x = ConvNormActivation(
            self.head_features, 1, conv=make.conv, **parts, name="last_conv"
        )(x)
        named["last_conv"] = x
        x = named["features"] = K.global_avg_pool(x)
        if self.num_classes:
            x = Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
            x = Dense(self.num_classes, **make.dtypes, name="head")(x)
        return finish(x, named, endpoints)


def _block_factory(
    network: EfficientNet,
    stage: Stage,
    channels: int,
    make: LayerFactories[ModuleFactory],
) -> ModuleFactory:
    """Returns what makes a stage's block for inputs of so many channels."""
    block: ModuleFactory = FusedInvertedBottleneck
    if not stage.fused:
        gate = functools.partial(
            SqueezeExcite,
            max(1, int(channels * network.squeeze_ratio)),
            dense=make.dense,
            activation=network.activation,
        )
        block = functools.partial(
            InvertedBottleneck, squeeze_excite=gate if network.squeeze_ratio else None
        )
    block = functools.partial(
        block,
        stage.features,
        channels * stage.expansion,
        kernel_size=stage.kernel_size,
        padding=network.padding,
        conv=make.conv,
        norm=make.norm,
        activation=network.activation,
    )
    return rematerialized(block) if network.remat else block


def scaled_stages(
    width: float, depth: float, *, scale_ends: bool = True
) -> tuple[Stage, ...]:
    """Returns B0's stages with so many times their channels and their blocks.

    Args:
      width: The factor of the channels, which are rounded to multiples of 8.
      depth: The factor of the blocks, whose number is rounded up.
      scale_ends: Whether the first and the last stage get more blocks too.
    """
    ends = () if scale_ends else (0, len(_B0) - 1)
    return tuple(
        dataclasses.replace(
            stage,
            features=round_channels(stage.features * width),
            num_blocks=math.ceil(stage.num_blocks * (1 if index in ends else depth)),
        )
        for index, stage in enumerate(_B0)
    )


def _scaled(
    width: float, depth: float, dropout_rate: float, **fields: object
) -> dict[str, object]:
    """Returns the fields of B0 with so many times its channels and its blocks."""
    return {
        "stages": scaled_stages(width, depth),
        "stem_features": round_channels(32 * width),
        "stem_strides": 2,
        "head_features": 4 * round_channels(320 * width),
        "dropout_rate": dropout_rate,
        **fields,
    }


_B0 = (
    Stage(16, 1, expansion=1, kernel_size=3, strides=1),
    Stage(24, 2, expansion=6, kernel_size=3, strides=2),
    Stage(40, 2, expansion=6, kernel_size=5, strides=2),
    Stage(80, 3, expansion=6, kernel_size=3, strides=2),
    Stage(112, 3, expansion=6, kernel_size=5, strides=1),
    Stage(192, 4, expansion=6, kernel_size=5, strides=2),
    Stage(320, 1, expansion=6, kernel_size=3, strides=1),
)

_LARGE = {
    "norm": functools.partial(
        BatchNorm, momentum=0.99, epsilon=1e-3, unbiased_running_var=True
    )
}

_PAPER: PaperAndModule = {
    "module": EfficientNet,
    "paper": (
        "Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural "
        "Networks"
    ),
    "year": 2019,
    "url": "https://arxiv.org/abs/1905.11946",
}

FAMILIES = (
    Family(
        **_PAPER,
        name="efficientnet",
        top1_source="ImageNet; torchvision's weights IMAGENET1K_V1",
        preprocessing={"interpolation": "bicubic"},
        variants={
            "efficientnet_b0": Variant(
                parameters=5_288_548,
                macs=385_814_752,
                fields=_scaled(1.0, 1.0, dropout_rate=0.2),
                top1=77.692,
            ),
            "efficientnet_b1": Variant(
                parameters=7_794_184,
                macs=686_802_832,
                input_shape=(240, 240, 3),
                fields=_scaled(1.0, 1.1, dropout_rate=0.2),
                top1=78.642,
                preprocessing={"crop_fraction": 240 / 256},
                preprocessing_by_source={
                    "timm": {
                        "crop_fraction": 0.9,
                        "mean": (0.5, 0.5, 0.5),
                        "std": (0.5, 0.5, 0.5),
                    }
                },
            ),
            "efficientnet_b2": Variant(
                parameters=9_109_994,
                macs=1_087_529_456,
                input_shape=(288, 288, 3),
                fields=_scaled(1.1, 1.2, dropout_rate=0.3),
                top1=80.608,
                preprocessing={"crop_fraction": 1.0},
                preprocessing_by_source={"timm": {"size": 256, "crop_fraction": 0.875}},
            ),
            "efficientnet_b3": Variant(
                parameters=12_233_232,
                macs=1_827_141_392,
                input_shape=(300, 300, 3),
                fields=_scaled(1.2, 1.4, dropout_rate=0.3),
                top1=82.008,
                preprocessing={"crop_fraction": 300 / 320},
                preprocessing_by_source={"timm": {"size": 288, "crop_fraction": 0.875}},
            ),
            "efficientnet_b4": Variant(
                parameters=19_341_616,
                macs=4_393_771_024,
                input_shape=(380, 380, 3),
                fields=_scaled(1.4, 1.8, dropout_rate=0.4),
                top1=83.384,
                preprocessing={"crop_fraction": 380 / 384},
                preprocessing_by_source={"timm": {"size": 320, "crop_fraction": 0.875}},
            ),
            "efficientnet_b5": Variant(
                parameters=30_389_784,
                macs=10_266_384_752,
                input_shape=(456, 456, 3),
                fields=_scaled(1.6, 2.2, dropout_rate=0.4, **_LARGE),
                top1=83.444,
                preprocessing={"crop_fraction": 1.0},
            ),
            "efficientnet_b6": Variant(
                parameters=43_040_704,
                macs=19_067_593_536,
                input_shape=(528, 528, 3),
                fields=_scaled(1.8, 2.6, dropout_rate=0.5, **_LARGE),
                top1=84.008,
                preprocessing={"crop_fraction": 1.0},
            ),
            "efficientnet_b7": Variant(
                parameters=66_347_960,
                macs=37_745_884_192,
                input_shape=(600, 600, 3),
                fields=_scaled(2.0, 3.1, dropout_rate=0.5, **_LARGE),
                top1=84.122,
                preprocessing={"crop_fraction": 1.0},
            ),
        },
    ),
    Family(
        **_PAPER,
        name="efficientnet_cifar",
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
