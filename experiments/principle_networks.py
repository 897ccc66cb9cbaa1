"""Small networks that differ in one respect, for the studies of design and training.

All are three stages of convolutions for images of about 32x32: each stage halves the
resolution but the first, and multiplies the channels. What a stage's layers are is a
field, so that one network with another field is another design and nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import kernels as K
from cnn_jax.layers import (
    BasicBlock,
    BatchNorm,
    Bottleneck,
    ConvNormActivation,
    Dense,
    DepthwiseSeparable,
    DropBlock,
    Dropout,
    GroupNorm,
    SpatialDropout,
    SqueezeExcite,
    StochasticDepth,
    layer_factories,
)

Design = Literal["conv", "separable", "basic", "bottleneck"]


class StagedNetwork(nn.Module):
    """Three stages of layers, and a head.

    Attributes:
      num_classes: The number of logits.
      widths: The channels of each stage's outputs.
      depth: The layers, or blocks, of each stage.
      kernel_size: The size of the filters that are not 1x1.
      design: `conv` stacks convolutions, `separable` depthwise and 1x1 ones; `basic`
        and `bottleneck` are ResNet's two blocks.
      squeeze_excite: Whether each stage ends with a channel gate.
      resolution: The height and width that images are resized to first; None for
        theirs.
      head: `pool` averages the last maps, `dense` flattens them and puts a hidden
        layer of 128 features before the logits.
      dropout_rate: The probability of dropping a feature before the logits.
      spatial_dropout_rate: That of dropping a whole map at the end of a stage.
      drop_block_rate: The share of the maps that DropBlock drops at the end of a stage.
      stochastic_depth_rate: The probability of skipping a `basic` block.
      norm: Makes the normalisations, or None.
      dtype: The dtype of the computation.
      param_dtype: The dtype in which the parameters are stored.
    """

    num_classes: int
    widths: tuple[int, ...] = (16, 32, 64)
    depth: int = 2
    kernel_size: int = 3
    design: Design = "conv"
    squeeze_excite: bool = False
    resolution: int | None = None
    head: Literal["pool", "dense"] = "pool"
    dropout_rate: float = 0.0
    spatial_dropout_rate: float = 0.0
    drop_block_rate: float = 0.0
    stochastic_depth_rate: float = 0.0
    norm: Callable[..., Any] | None = BatchNorm
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns the logits of images `x` `(n, height, width, channels)`."""
        if self.resolution is not None:
            shape = (x.shape[0], self.resolution, self.resolution, x.shape[3])
            x = jax.image.resize(x, shape, "bilinear")
        make = layer_factories(self, train=train)
        made_by = {"conv": make.conv, "norm": make.norm}
        x = ConvNormActivation(self.widths[0], **made_by, name="stem")(x)
        for stage, width in enumerate(self.widths, start=1):
            for index in range(1, self.depth + 1):
                strides = 2 if index == 1 and stage > 1 else 1
                layer = self._layer(width, strides, made_by, train)
                x = layer(name=f"stage{stage}_layer{index}")(x)
            if self.squeeze_excite:
                gate = SqueezeExcite(
                    squeeze_ratio=1 / 4, dense=make.dense, name=f"stage{stage}_gate"
                )
                x = gate(x)
            x = SpatialDropout(self.spatial_dropout_rate, not train)(x)
            x = DropBlock(self.drop_block_rate, 3, not train)(x)
        if self.head == "pool":
            x = K.global_avg_pool(x)
        else:
            x = x.reshape(x.shape[0], -1)
            x = K.relu(make.dense(128, name="hidden")(x))
        x = Dropout(self.dropout_rate, not train)(x)
        return Dense(self.num_classes, **make.dtypes, name="head")(x)

    def _layer(
        self, width: int, strides: int, made_by: dict[str, Any], train: bool
    ) -> Any:
        shared = {"strides": strides, **made_by}
        if self.design == "basic":
            depth = None
            if self.stochastic_depth_rate:
                depth = functools.partial(
                    StochasticDepth, self.stochastic_depth_rate, not train
                )
            return functools.partial(
                BasicBlock, width, stochastic_depth=depth, **shared
            )
        if self.design == "bottleneck":
            return functools.partial(Bottleneck, width, **shared)
        kind = ConvNormActivation if self.design == "conv" else DepthwiseSeparable
        return functools.partial(kind, width, self.kernel_size, **shared)


def group_norm(*, use_running_average: bool, **options: Any) -> GroupNorm:
    """Makes a `GroupNorm` of eight groups, which does the same in training."""
    del use_running_average
    return GroupNorm(num_groups=8, **options)


def staged(**fields: Any) -> Callable[..., StagedNetwork]:
    """Returns what makes a `StagedNetwork` with some of its fields changed."""
    return functools.partial(StagedNetwork, **fields)
