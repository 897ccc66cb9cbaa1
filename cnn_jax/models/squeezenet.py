"""SqueezeNet (Iandola, Han, Moskewicz, Ashraf, Dally and Keutzer 2016).

How few parameters does AlexNet's accuracy need? Most filters may be 1x1, which have a
ninth of a 3x3 one's; the 3x3 ones that stay should see few channels, so a "fire" block
squeezes them first and expands afterwards by filters of both sizes; and pooling late
keeps large maps, which cost time but no parameters. A convolution to the classes and
global average pooling replace the fully connected layers.

It reached AlexNet's accuracy with a fiftieth of its parameters, and made the size of
a network a goal beside its accuracy: the line to MobileNet and ShuffleNet begins here.

Version 1.1, by the same authors, has a smaller first filter and pools earlier, for 2.4
times less computation. Top-1 is torchvision's, of its weights IMAGENET1K_V1.

    model          parameters     MACs/M   top-1/%
    squeezenet1_0   1,248,424      818.9     58.09
    squeezenet1_1   1,235,496      349.2     58.18

The first convolution is not padded, 3x3 ones in the blocks are by 1 on every side, and
max-pools round their number of windows up. Filters start from He's uniform
distribution, the last one from a normal with deviation 0.01. There is no
normalisation, but `norm` puts one behind every convolution except the last. Any image
of at least 21x21 is accepted (17x17 in version 1.1).
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import kernels as K
from cnn_jax.layers import (
    Conv,
    ConvNormActivation,
    Dropout,
    ModuleFactory,
    ceil_pool,
    layer_factories,
    rematerialized,
)
from cnn_jax.layers.types import Activation, Dtype
from cnn_jax.models.interface import ImageNetwork, Output, check_images, finish
from cnn_jax.models.registry import Family, Variant


class Fire(nn.Module):
    """A 1x1 convolution to few channels, then 1x1 and 3x3 ones side by side.

    Submodules: `squeeze`, `expand1x1` and `expand3x3`.

    Attributes:
      features: The number of output channels, half of them from each size.
      squeeze_ratio: The squeezed channels, as a fraction of `features`.
      conv: Makes the convolutions.
      norm: Makes the normalisations, or None.
      activation: Applied after each convolution.
    """

    features: int
    squeeze_ratio: float = 0.125
    conv: ModuleFactory = Conv
    norm: ModuleFactory | None = None
    activation: Activation = K.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, h, w, c)` mapped to `(n, h, w, features)`."""
        layer = functools.partial(
            ConvNormActivation,
            conv=self.conv,
            norm=self.norm,
            activation=self.activation,
        )
        half = self.features // 2
        x = layer(int(self.features * self.squeeze_ratio), 1, name="squeeze")(x)
        halves = [
            layer(half, 1, name="expand1x1")(x),
            layer(half, 3, name="expand3x3")(x),
        ]
        return jnp.concatenate(halves, axis=-1)


class SqueezeNet(ImageNetwork):
    """Stages of fire blocks with a max-pool in front of each, and no dense layer.

    Attributes:
      stages: The features of each block, stage by stage.
      stem_features: The number of channels after the first convolution.
      stem_size: The first filter's size.
      dropout_rate: The probability of dropping an entry before the last convolution.
      num_classes: The number of logits, or 0 for the pooled features.
      norm: Makes the normalisations, or None for none; it gets `use_running_average`,
        `dtype` and `param_dtype`.
      activation: Applied after each convolution, the last too.
      space_to_depth: Whether to compute the first convolution by `SpaceToDepthConv`.
      remat: Whether the backward pass recomputes what is inside the blocks.
      dtype: The dtype of the computation.
      param_dtype: The dtype in which the parameters are stored.
    """

    stages: tuple[tuple[int, ...], ...]
    stem_features: int
    stem_size: int
    dropout_rate: float = 0.5
    num_classes: int = 1000
    norm: ModuleFactory | None = None
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
          train: Whether features are dropped (which needs `rngs={"dropout": key}`).
          endpoints: Whether to return `(logits, {"stem", "stage1", ...,
            "features"})`.
        """
        # Every pool, its windows rounded up, needs twice what it is to leave.
        smallest = 2 * (2 ** len(self.stages) - 1) + self.stem_size
        check_images(self, x, minimum_size=smallest)
        make = layer_factories(
            self,
            train=train,
            space_to_depth=self.space_to_depth,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "uniform"),
        )
        fire = rematerialized(Fire) if self.remat else Fire
        named = {}

        x = named["stem"] = ConvNormActivation(
            self.stem_features,
            self.stem_size,
            strides=2,
            padding="VALID",
            conv=make.stem_conv,
            norm=make.norm,
            activation=self.activation,
            name="stem",
        )(x)
        for stage, blocks in enumerate(self.stages, start=1):
            x = ceil_pool(x, 3, strides=2)
            for block, features in enumerate(blocks, start=1):
                name = f"stage{stage}_block{block}"
                x = fire(
                    features,
                    conv=make.conv,
                    norm=make.norm,
                    activation=self.activation,
                    name=name,
                )(x)
            named[f"stage{stage}"] = x
        named["features"] = K.global_avg_pool(x)
        if not self.num_classes:
            return finish(named["features"], named, endpoints)
        x = Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
        x = Conv(
            self.num_classes,
            1,
            kernel_init=nn.initializers.normal(0.01),
            **make.dtypes,
            name="head",
        )(x)
        return finish(K.global_avg_pool(self.activation(x)), named, endpoints)


FAMILIES = (
    Family(
        name="squeezenet",
        module=SqueezeNet,
        paper=(
            "Iandola et al., SqueezeNet: AlexNet-level accuracy with 50x fewer "
            "parameters and <0.5MB model size"
        ),
        year=2016,
        url="https://arxiv.org/abs/1602.07360",
        top1_source="ImageNet; torchvision's weights IMAGENET1K_V1",
        variants={
            "squeezenet1_0": Variant(
                parameters=1_248_424,
                macs=818_924_576,
                fields={
                    "stages": ((128, 128, 256), (256, 384, 384, 512), (512,)),
                    "stem_features": 96,
                    "stem_size": 7,
                },
                top1=58.092,
            ),
            "squeezenet1_1": Variant(
                parameters=1_235_496,
                macs=349_151_936,
                fields={
                    "stages": ((128, 128), (256, 256), (384, 384, 512, 512)),
                    "stem_features": 64,
                    "stem_size": 3,
                },
                top1=58.178,
            ),
        },
    ),
)
