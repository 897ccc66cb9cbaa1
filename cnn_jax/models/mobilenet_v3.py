"""MobileNet v3 (Howard et al. 2019).

A search that knows the latency on a phone chooses the blocks (as for MnasNet), a second
one then trims each layer. By hand, the costly ends are redesigned: a stem of 16
channels, and a last convolution that is moved behind the pooling. And silu is replaced
by a piecewise form that is cheap in fixed point: hard_swish, and hard_sigmoid in the
gates.

It joined search and design in one recipe, and stayed the small network of choice on
phones for years.

    model                parameters     MACs/M   top-1/%
    mobilenet_v3_large    5,483,032       216.6     74.04
    mobilenet_v3_small    2,542,856        56.5     67.67

Top-1 is torchvision's, of its weights IMAGENET1K_V1. Padding is `(k - 1) / 2` on every
side. Batch normalisation has epsilon 1e-3, keeps 0.99 of the old statistics and tracks
the unbiased variance, as PyTorch's. Filters start from He's normal distribution. Any
image of at least 32x32 is accepted.
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
    ConvNormActivation,
    Dense,
    Dropout,
    InvertedBottleneck,
    ModuleFactory,
    SqueezeExcite,
    layer_factories,
    rematerialized,
    round_channels,
)
from cnn_jax.layers.types import Activation, Dtype
from cnn_jax.models.interface import ImageNetwork, Output, check_images, finish
from cnn_jax.models.registry import Family, Variant


@dataclasses.dataclass(frozen=True)
class Block:
    """One inverted bottleneck.

    Attributes:
      kernel_size: The depthwise filter's size.
      hidden_features: The number of channels inside.
      features: The number of output channels.
      gated: Whether it has a squeeze-and-excite gate.
      activation: The activation inside.
    """

    kernel_size: int
    hidden_features: int
    features: int
    gated: bool
    activation: Activation


class MobileNetV3(ImageNetwork):
    """A stem, stages of inverted bottlenecks and a classifier of two layers.

    Attributes:
      stages: The blocks, stage by stage. The first block of a stage halves the
        resolution, but in the first stage only if `first_strides` is 2.
      first_strides: The first block's strides.
      hidden_features: The number of features between pooling and logits.
      dropout_rate: The probability of dropping one of those in training.
      num_classes: The number of logits, or 0 for the hidden features.
      norm: Makes the normalisations; it gets `use_running_average`, `dtype` and
        `param_dtype`.
      activation: Applied outside the blocks.
      space_to_depth: Whether to compute the first convolution by `SpaceToDepthConv`.
      remat: Whether the backward pass recomputes what is inside the blocks.
      dtype: The dtype of the computation.
      param_dtype: The dtype in which the parameters are stored.
    """

    stages: tuple[tuple[Block, ...], ...]
    first_strides: int
    hidden_features: int
    dropout_rate: float = 0.2
    num_classes: int = 1000
    norm: ModuleFactory = functools.partial(
        BatchNorm, momentum=0.99, epsilon=1e-3, unbiased_running_var=True
    )
    activation: Activation = K.hard_swish
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
          x: Normalised images of at least 32x32.
          train: Whether batches are normalised by their own statistics and features
            are dropped (which needs `rngs={"dropout": key}`).
          endpoints: Whether to return `(logits, {"stem", "stage1", ..., "last_conv",
            "features"})`.
        """
        check_images(self, x, minimum_size=32)
        make = layer_factories(self, train=train, space_to_depth=self.space_to_depth)
        gate = functools.partial(
            SqueezeExcite,
            dense=make.dense,
            gate=K.hard_sigmoid,
        )
        bottleneck = (
            rematerialized(InvertedBottleneck) if self.remat else InvertedBottleneck
        )
        named = {}

        x = ConvNormActivation(
            16,
            3,
            strides=2,
            conv=make.stem_conv,
            norm=make.norm,
            activation=self.activation,
            name="stem",
        )(x)
        named["stem"] = x
        for number, stage in enumerate(self.stages, start=1):
            for index, block in enumerate(stage, start=1):
                strides = self.first_strides if number == 1 else 2
                squeezed = round_channels(block.hidden_features // 4)
                x = bottleneck(
                    block.features,
                    block.hidden_features,
                    kernel_size=block.kernel_size,
                    strides=strides if index == 1 else 1,
                    squeeze_excite=(
                        functools.partial(gate, squeezed) if block.gated else None
                    ),
                    conv=make.conv,
                    norm=make.norm,
                    activation=block.activation,
                    name=f"stage{number}_block{index}",
                )(x)
            named[f"stage{number}"] = x
        x = ConvNormActivation(
            6 * x.shape[-1],
            1,
            conv=make.conv,
            norm=make.norm,
            activation=self.activation,
            name="last_conv",
        )(x)
        named["last_conv"] = x
        x = K.global_avg_pool(x)
        x = make.dense(self.hidden_features, name="hidden")(x)
        x = named["features"] = self.activation(x)
        if self.num_classes:
            x = Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
            x = Dense(self.num_classes, **make.dtypes, name="head")(x)
        return finish(x, named, endpoints)


def _blocks(
    activation: Activation, gated: bool, *sizes: tuple[int, int, int]
) -> tuple[Block, ...]:
    return tuple(Block(*size, gated, activation) for size in sizes)


FAMILIES = (
    Family(
        name="mobilenet_v3",
        module=MobileNetV3,
        paper="Howard et al., Searching for MobileNetV3",
        year=2019,
        url="https://arxiv.org/abs/1905.02244",
        top1_source="ImageNet; torchvision's weights IMAGENET1K_V1",
        variants={
            "mobilenet_v3_large": Variant(
                parameters=5_483_032,
                macs=216_589_760,
                fields={
                    "stages": (
                        _blocks(K.relu, False, (3, 16, 16)),
                        _blocks(K.relu, False, (3, 64, 24), (3, 72, 24)),
                        _blocks(K.relu, True, (5, 72, 40), *[(5, 120, 40)] * 2),
                        _blocks(
                            K.hard_swish,
                            False,
                            *((3, 240, 80), (3, 200, 80), *[(3, 184, 80)] * 2),
                        )
                        + _blocks(K.hard_swish, True, (3, 480, 112), (3, 672, 112)),
                        _blocks(
                            K.hard_swish, True, (5, 672, 160), *[(5, 960, 160)] * 2
                        ),
                    ),
                    "first_strides": 1,
                    "hidden_features": 1280,
                },
                top1=74.042,
            ),
            "mobilenet_v3_small": Variant(
                parameters=2_542_856,
                macs=56_510_400,
                fields={
                    "stages": (
                        _blocks(K.relu, True, (3, 16, 16)),
                        _blocks(K.relu, False, (3, 72, 24), (3, 88, 24)),
                        _blocks(
                            K.hard_swish,
                            True,
                            *((5, 96, 40), *[(5, 240, 40)] * 2),
                            *((5, 120, 48), (5, 144, 48)),
                        ),
                        _blocks(K.hard_swish, True, (5, 288, 96), *[(5, 576, 96)] * 2),
                    ),
                    "first_strides": 2,
                    "hidden_features": 1024,
                },
                top1=67.668,
            ),
        },
    ),
)
