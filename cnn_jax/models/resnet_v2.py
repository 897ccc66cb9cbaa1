"""ResNet v2, with pre-activation (He, Zhang, Ren and Sun 2016).

In a ResNet every sum still passes through a relu, so no block hands its input on
untouched. Move normalisation and activation in front of the convolutions, and the
shortcuts of all blocks form one clean path from the stem to the pooling: each block's
output is its input plus a branch, and each gradient arrives unscaled at every depth.
What is left, one normalisation and one activation, follows the last block.

It let networks of 1001 layers train on CIFAR-10, and made "normalise first" the order
of DenseNet, of wide ResNets and, years later, of transformers.

As in ResNet v1.5, the strides are the 3x3 convolutions', not the first 1x1's. Top-1 is
that of ResNet50V2, 101V2 and 152V2 in Keras's table, which are trained without timm's
recipes; they halve the resolution at the end of a stage instead of at its beginning.

    model          parameters     MACs/M   top-1/%
    resnetv2_18    11,687,720    1,814.1         -
    resnetv2_34    21,795,880    3,663.8         -
    resnetv2_50    25,549,352    4,089.2     76.00
    resnetv2_101   44,541,480    7,801.4     77.20
    resnetv2_152   60,185,128   11,513.6     78.00

Padding is 1 on every side (3 in the stem), filters start from He's normal distribution,
batch normalisation has epsilon 1e-5, keeps 0.9 of the old statistics and, like
PyTorch's, tracks the unbiased variance. Images are scaled to [-1, 1]. Any image of at
least 32x32 is accepted; with `small_images`, of at least 4x4 for three stages.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import kernels as K
from cnn_jax.layers import (
    BatchNorm,
    Dropout,
    ModuleFactory,
    PreactivationBasicBlock,
    PreactivationBottleneck,
    SpatialDropout,
    layer_factories,
    normalize_and_activate,
    rematerialized,
)
from cnn_jax.layers.types import Activation, Dtype
from cnn_jax.models.interface import ImageNetwork, Output, check_images, finish
from cnn_jax.models.registry import Family, Variant


class ResNetV2(ImageNetwork):
    """Stages of pre-activation blocks, then the last normalisation and activation.

    Attributes:
      stage_sizes: The number of blocks in each stage.
      stage_features: The number of output channels, stage by stage.
      block: Makes the blocks.
      stem_features: The number of channels after the first convolution.
      small_images: Whether the stem is a 3x3 convolution that keeps the resolution,
        instead of a 7x7 one and a max-pool that quarter it.
      num_classes: The number of logits, or 0 for the pooled features.
      dropout_rate: The share of activations dropped before the last convolution of
        each block.
      spatial_dropout_rate: The share of channels dropped there instead.
      norm: Makes the normalisations; it gets `use_running_average`, `dtype` and
        `param_dtype`.
      activation: Applied after each normalisation.
      space_to_depth: Whether to compute the 7x7 stem by `SpaceToDepthConv`.
      remat: Whether the backward pass recomputes what is inside the blocks.
      dtype: The dtype of the computation.
      param_dtype: The dtype in which the parameters are stored.
    """

    stage_sizes: tuple[int, ...]
    stage_features: tuple[int, ...]
    block: ModuleFactory = PreactivationBottleneck
    stem_features: int = 64
    small_images: bool = False
    num_classes: int = 1000
    dropout_rate: float = 0.0
    spatial_dropout_rate: float = 0.0
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
          train: Whether batches are normalised by their own statistics and dropout
            drops; with a rate of it it needs the rng `dropout`.
          endpoints: Whether to return `(logits, {"stem", "stage1", ...,
            "features"})`; those before `features` are sums, not yet normalised.
        """
        smallest = 2 ** (len(self.stage_sizes) - (1 if self.small_images else -1))
        check_images(self, x, minimum_size=smallest)
        make = layer_factories(self, train=train, space_to_depth=self.space_to_depth)
        block = rematerialized(self.block) if self.remat else self.block
        named = {}

        if self.small_images:
            x = make.conv(
                self.stem_features, 3, padding=1, use_bias=False, name="stem"
            )(x)
        else:
            x = make.stem_conv(
                self.stem_features,
                7,
                strides=2,
                padding=3,
                use_bias=False,
                name="stem",
            )(x)
            x = K.max_pool(x, 3, strides=2, padding=1)
        named["stem"] = x
        stages = zip(self.stage_sizes, self.stage_features, strict=True)
        for stage, (num_blocks, features) in enumerate(stages, start=1):
            for index in range(1, num_blocks + 1):
                x = block(
                    features,
                    strides=2 if stage > 1 and index == 1 else 1,
                    conv=make.conv,
                    norm=make.norm,
                    activation=self.activation,
                    dropout=self._dropout(train),
                    name=f"stage{stage}_block{index}",
                )(x)
            named[f"stage{stage}"] = x
        x = normalize_and_activate(x, make.norm(name="norm"), self.activation)
        x = named["features"] = K.global_avg_pool(x)
        if self.num_classes:
            x = make.dense(self.num_classes, name="head")(x)
        return finish(x, named, endpoints)

    def _dropout(self, train: bool) -> ModuleFactory | None:
        """Returns what drops entries or channels inside a block."""
        if self.dropout_rate and self.spatial_dropout_rate:
            raise ValueError(
                f"ResNetV2: got dropout_rate {self.dropout_rate} and "
                f"spatial_dropout_rate {self.spatial_dropout_rate}, expected one."
            )
        if self.spatial_dropout_rate:
            return functools.partial(
                SpatialDropout, self.spatial_dropout_rate, deterministic=not train
            )
        if self.dropout_rate:
            return functools.partial(
                Dropout, self.dropout_rate, deterministic=not train
            )
        return None


_BASIC = {"stage_features": (64, 128, 256, 512), "block": PreactivationBasicBlock}
_BOTTLENECK = {"stage_features": (256, 512, 1024, 2048)}

FAMILIES = (
    Family(
        name="resnet_v2",
        module=ResNetV2,
        paper="He et al., Identity Mappings in Deep Residual Networks",
        year=2016,
        url="https://arxiv.org/abs/1603.05027",
        top1_source="ImageNet; keras.io/api/applications, of ResNet50V2 to 152V2",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        preprocessing={"interpolation": "bicubic"},
        variants={
            "resnetv2_18": Variant(
                parameters=11_687_720,
                macs=1_814_073_344,
                fields={"stage_sizes": (2, 2, 2, 2), **_BASIC},
                preprocessing={"crop_fraction": 0.9},
            ),
            "resnetv2_34": Variant(
                parameters=21_795_880,
                macs=3_663_761_408,
                fields={"stage_sizes": (3, 4, 6, 3), **_BASIC},
                preprocessing={"crop_fraction": 0.9},
            ),
            "resnetv2_50": Variant(
                parameters=25_549_352,
                macs=4_089_184_256,
                fields={"stage_sizes": (3, 4, 6, 3), **_BOTTLENECK},
                top1=76.0,
                preprocessing={"crop_fraction": 0.95},
            ),
            "resnetv2_101": Variant(
                parameters=44_541_480,
                macs=7_801_405_440,
                fields={"stage_sizes": (3, 4, 23, 3), **_BOTTLENECK},
                top1=77.2,
                preprocessing={"crop_fraction": 0.95},
            ),
            "resnetv2_152": Variant(
                parameters=60_185_128,
                macs=11_513_626_624,
                fields={"stage_sizes": (3, 8, 36, 3), **_BOTTLENECK},
                top1=78.0,
            ),
        },
    ),
)
