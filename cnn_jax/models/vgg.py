"""VGG (Simonyan and Zisserman 2014).

Stacks of 3x3 convolutions take the place of larger filters: two see 5x5 and three see
7x7, with fewer parameters and more nonlinearities. Resolution halves by max-pooling
and the number of channels doubles, stage after stage. Nothing else varies, so depth
alone is compared: 11 to 19 layers.

It made depth by repetition of one small block the default, and its features served
detection, segmentation and style transfer for years.

`vgg8_cifar` is that recipe at the size of CIFAR's images: six convolutions and two
fully connected layers, with batch normalisation (Ioffe and Szegedy 2015), which the
original came too early for. The fully connected layer fits one image size, as in the
original; `init` decides which.
"""

from __future__ import annotations

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
    ModuleFactory,
)
from cnn_jax.layers.types import Activation, Dtype
from cnn_jax.models.interface import check_images, finish
from cnn_jax.models.registry import CIFAR10_MEAN, CIFAR10_STD, Family, Variant


class VGG(nn.Module):
    """Stages of 3x3 convolutions, each closed by a 2x2 max-pool, and a classifier.

    Attributes:
      stages: The features of each convolution, stage by stage.
      hidden_features: The features of each fully connected layer before the last.
      dropout_rate: The probability of dropping one of those features in training.
      num_classes: The number of logits, or 0 for the last hidden features.
      norm: Makes the normalisation after each convolution, or None for none; it gets
        `use_running_average`, `dtype` and `param_dtype`.
      activation: Applied after each layer but the last.
      dtype: The dtype of the computation.
      param_dtype: The dtype in which the parameters are stored.
    """

    stages: tuple[tuple[int, ...], ...]
    hidden_features: tuple[int, ...]
    dropout_rate: float = 0.5
    num_classes: int = 10
    norm: ModuleFactory | None = BatchNorm
    activation: Activation = K.relu
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, endpoints: bool = False):
        """Returns the logits of images `x` `(n, height, width, channels)`.

        Args:
          x: Normalised images of at least 2 to the number of stages in each direction.
          train: Whether batches are normalised by their own statistics and features
            are dropped (which needs `rngs={"dropout": key}`).
          endpoints: Whether to return `(logits, {"stage1", ..., "features"})`.
        """
        check_images(x, minimum_size=2 ** len(self.stages), model="VGG")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
        norm = self.norm and functools.partial(
            self.norm, use_running_average=not train, **dtypes
        )
        layer = functools.partial(
            ConvNormActivation,
            conv=functools.partial(Conv, kernel_init=he_normal, **dtypes),
            norm=norm,
            activation=self.activation,
        )
        named = {}

        for stage, features in enumerate(self.stages, start=1):
            for index, num_features in enumerate(features, start=1):
                x = layer(num_features, name=f"stage{stage}_conv{index}")(x)
            x = named[f"stage{stage}"] = K.max_pool(x, 2)
        x = x.reshape(x.shape[0], -1)
        for index, num_features in enumerate(self.hidden_features, start=1):
            x = Dense(
                num_features,
                kernel_init=he_normal,
                **dtypes,
                name=f"classifier_dense{index}",
            )(x)
            x = self.activation(x)
            x = Dropout(
                self.dropout_rate,
                deterministic=not train,
                name=f"classifier_dropout{index}",
            )(x)
        named["features"] = x
        if self.num_classes:
            x = Dense(self.num_classes, **dtypes, name="head")(x)
        return finish(x, named, endpoints)


FAMILIES = (
    Family(
        name="vgg_cifar",
        module=VGG,
        paper=(
            "Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale "
            "Image Recognition"
        ),
        year=2014,
        url="https://arxiv.org/abs/1409.1556",
        num_classes=10,
        input_shape=(32, 32, 3),
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
        variants={
            "vgg8_cifar": Variant(
                parameters=551_018,
                macs=38_896_896,
                fields={
                    "stages": ((32, 32), (64, 64), (128, 128)),
                    "hidden_features": (128,),
                },
            )
        },
    ),
)
