"""Network in Network (Lin, Chen and Yan 2013).

A convolution is a linear judgement of each patch; a small perceptron in its place can
draw curved boundaries. Slid over the image, that perceptron is a convolution followed
by 1x1 ones, each with its activation: an "mlpconv" layer. The last one has a map for
each class, whose average is the logit, so no dense layer is left to overfit.

The 1x1 convolution and global average pooling, both new here, are in nearly every
network since: GoogLeNet's branches, ResNet's bottlenecks and the heads of all.

`nin` is the network for ImageNet that the authors released for Caffe, and its top-1
theirs (of single crops); `nin_cifar` is the paper's for CIFAR-10, sized as in their
release, with the paper's top-1 (with augmentation, after global contrast normalisation
and whitening). There the second pool takes averages, while the paper speaks of
max-pools alone.

    model          parameters     MACs/M   top-1/%
    nin             7,595,176    1,100.2     59.36
    nin_cifar         966,986      222.5     91.19

The 11x11 convolution is not padded, the others so that they keep the resolution; pools
round their number of windows up, and averages leave the padding out. Filters start
from He's normal distribution. There is no normalisation, but `norm` puts one behind
every convolution except the last. Any image of at least 39x39 is accepted; by
`nin_cifar`, of at least 4x4.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

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
from cnn_jax.models.registry import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    Family,
    PaperAndModule,
    Variant,
)


class MlpConv(nn.Module):
    """A convolution and 1x1 ones on it: a perceptron slid over the image.

    Submodules: `conv1`, `conv2`, ...

    Attributes:
      features: The number of output channels, convolution by convolution.
      kernel_size: The first filter's size.
      strides: The first convolution's strides.
      padding: What the first convolution adds on every side.
      conv: Makes the convolutions.
      norm: Makes the normalisations, or None.
      activation: Applied after each convolution.
    """

    features: tuple[int, ...]
    kernel_size: int
    strides: int = 1
    padding: int = 0
    conv: ModuleFactory = Conv
    norm: ModuleFactory | None = None
    activation: Activation = K.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, h, w, c)` mapped to `(n, h', w', features[-1])`."""
        layer = functools.partial(
            ConvNormActivation,
            conv=self.conv,
            norm=self.norm,
            activation=self.activation,
        )
        first, *others = self.features
        x = layer(
            first,
            self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            name="conv1",
        )(x)
        for index, features in enumerate(others, start=2):
            x = layer(features, 1, name=f"conv{index}")(x)
        return x


@dataclasses.dataclass(frozen=True)
class Stage:
    """One mlpconv layer (without the convolution to the classes) and what follows it.

    Attributes:
      features: As in `MlpConv`, and so the next three.
      kernel_size: The first filter's size.
      strides: The first convolution's strides.
      padding: The first convolution's.
      pool: What pools the maps in 3x3 windows with strides of 2, or None.
      dropout: Whether entries are dropped behind it.
    """

    features: tuple[int, ...]
    kernel_size: int
    strides: int = 1
    padding: int = 0
    pool: Callable[..., jax.Array] | None = K.max_pool
    dropout: bool = False


class NiN(ImageNetwork):
    """Mlpconv layers, of which the last ends in the classes, and their average.

    Attributes:
      stages: The mlpconv layers.
      dropout_rate: The probability of dropping an entry.
      num_classes: The number of logits, or 0 for the pooled features.
      norm: Makes the normalisations, or None for none; it gets `use_running_average`,
        `dtype` and `param_dtype`.
      activation: Applied after each convolution, the last too.
      space_to_depth: Whether to compute the first mlpconv by `SpaceToDepthConv`.
      remat: Whether the backward pass recomputes what is inside the mlpconv layers.
      dtype: The dtype of the computation.
      param_dtype: The dtype in which the parameters are stored.
    """

    stages: tuple[Stage, ...]
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
          endpoints: Whether to return `(logits, {"stage1", ..., "features"})`.
        """
        check_images(self, x, minimum_size=self._smallest_image())
        make = layer_factories(self, train=train, space_to_depth=self.space_to_depth)
        block = functools.partial(
            rematerialized(MlpConv) if self.remat else MlpConv,
            norm=make.norm,
            activation=self.activation,
        )
        named = {}

        for number, stage in enumerate(self.stages, start=1):
            x = block(
                stage.features,
                stage.kernel_size,
                strides=stage.strides,
                padding=stage.padding,
                conv=make.stem_conv if number == 1 else make.conv,
                name=f"stage{number}_block1",
            )(x)
            if stage.pool is not None:
                x = ceil_pool(x, 3, strides=2, pool=stage.pool)
            named[f"stage{number}"] = x
            if stage.dropout:
                x = Dropout(
                    self.dropout_rate,
                    deterministic=not train,
                    name=f"stage{number}_dropout",
                )(x)
        named["features"] = K.global_avg_pool(x)
        if not self.num_classes:
            return finish(named["features"], named, endpoints)
        x = make.conv(self.num_classes, 1, name="head")(x)
        return finish(K.global_avg_pool(self.activation(x)), named, endpoints)

    def _smallest_image(self) -> int:
        """Returns the least size that leaves one pixel to the last mlpconv layer."""
        smallest = 1
        for stage in reversed(self.stages):
            # A pool whose windows are rounded up needs twice what it is to leave.
            smallest *= 1 if stage.pool is None else 2
            window = stage.kernel_size - 2 * stage.padding
            smallest = (smallest - 1) * stage.strides + window
        return smallest


_AVG_POOL = functools.partial(K.avg_pool, count_include_pad=False)

_PAPER: PaperAndModule = {
    "module": NiN,
    "paper": "Lin, Chen and Yan, Network In Network",
    "year": 2013,
    "url": "https://arxiv.org/abs/1312.4400",
}

FAMILIES = (
    Family(
        **_PAPER,
        name="nin",
        top1_source="ImageNet; the authors' release for Caffe",
        variants={
            "nin": Variant(
                parameters=7_595_176,
                macs=1_100_188_800,
                fields={
                    "stages": (
                        Stage((96, 96, 96), 11, strides=4),
                        Stage((256, 256, 256), 5, padding=2),
                        Stage((384, 384, 384), 3, padding=1, dropout=True),
                        Stage((1024, 1024), 3, padding=1, pool=None),
                    )
                },
                top1=59.36,
            )
        },
    ),
    Family(
        **_PAPER,
        name="nin_cifar",
        top1_source="CIFAR-10; the paper's table 1, with augmentation",
        num_classes=10,
        input_shape=(32, 32, 3),
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
        variants={
            "nin_cifar": Variant(
                parameters=966_986,
                macs=222_486_528,
                fields={
                    "stages": (
                        Stage((192, 160, 96), 5, padding=2, dropout=True),
                        Stage(
                            (192, 192, 192), 5, padding=2, pool=_AVG_POOL, dropout=True
                        ),
                        Stage((192, 192), 3, padding=1, pool=None),
                    )
                },
                top1=91.19,
            )
        },
    ),
)
