"""AlexNet (Krizhevsky, Sutskever and Hinton 2012; Krizhevsky 2014).

A million labelled photographs and two graphics processors make LeNet's recipe work at
sixty million parameters. Rectified units train several times faster than tanh, dropout
and augmentation hold overfitting back, and overlapping max-pools shrink the maps. The
network's width, not its design, is what the hardware of the year allowed.

It won ImageNet 2012 by ten points of top-5 error, and computer vision changed over to
learned features within two years.

This is the second paper's single tower, as in torchvision: without the first one's two
groups of channels and without its response normalisation. Top-1 is torchvision's, of
its weights IMAGENET1K_V1.

    model      parameters     MACs/M   top-1/%
    alexnet    61,100,840      714.2     56.52

The convolutions are padded by 2, 2, 1, 1 and 1 on every side, the pools are not;
dropout stands in front of the hidden layers. Filters start from He's normal
distribution. There is no normalisation, but `norm` puts one behind every convolution.
The last maps are averaged, or repeated, to the 6x6 that the fully connected layers are
made for, so any image of at least 63x63 is accepted.
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
    ConvNormActivation,
    Dense,
    ModuleFactory,
    apply_stage,
    ceil_pool,
    hidden_features,
    layer_factories,
)
from cnn_jax.layers.types import Activation, Dtype
from cnn_jax.models.interface import ImageNetwork, Output, check_images, finish
from cnn_jax.models.registry import Family, Variant


@dataclasses.dataclass(frozen=True)
class Stage:
    """Convolutions that a max-pool closes.

    Attributes:
      features: The number of output channels, convolution by convolution.
      kernel_size: The filters' size.
      strides: The convolutions' strides.
      padding: What is added on every side in front of each.
    """

    features: tuple[int, ...]
    kernel_size: int
    strides: int = 1
    padding: int = 0


class AlexNet(ImageNetwork):
    """Stages of convolutions, each closed by a 3x3 max-pool, and a classifier.

    Attributes:
      stages: The convolutions.
      ceil_mode: Whether the pools round their number of windows up.
      response_norm: Applied behind every pool but the last, or None.
      pooled_size: The height and width that the last maps are averaged to.
      hidden_features: The features of each fully connected layer before the last.
      dropout_rate: The probability of dropping an entry in training.
      drop_inputs: Whether the hidden layers' inputs are dropped, not their outputs.
      num_classes: The number of logits, or 0 for the last hidden features.
      norm: Makes the normalisation after each convolution, or None for none; it gets
        `use_running_average`, `dtype` and `param_dtype`.
      activation: Applied after each layer but the last.
      space_to_depth: Whether to compute the first convolution by `SpaceToDepthConv`.
      remat: Whether the backward pass recomputes what is inside the stages.
      dtype: The dtype of the computation.
      param_dtype: The dtype in which the parameters are stored.
    """

    stages: tuple[Stage, ...]
    ceil_mode: bool = False
    response_norm: Callable[[jax.Array], jax.Array] | None = None
    pooled_size: int = 6
    hidden_features: tuple[int, ...] = (4096, 4096)
    dropout_rate: float = 0.5
    drop_inputs: bool = True
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
        layer = functools.partial(
            ConvNormActivation,
            norm=make.norm,
            activation=self.activation,
        )
        named = {}

        for number, stage in enumerate(self.stages, start=1):
            layers = [
                layer(
                    features,
                    stage.kernel_size,
                    strides=stage.strides,
                    padding=stage.padding,
                    conv=make.stem_conv if number == 1 else make.conv,
                    name=f"stage{number}_conv{index}",
                )
                for index, features in enumerate(stage.features, start=1)
            ]
            is_last = number == len(self.stages)
            end = functools.partial(self._shrink, scale=not is_last)
            x = apply_stage(self, layers, end, x, remat=self.remat)
            named[f"stage{number}"] = x
        x = named["features"] = hidden_features(
            K.adaptive_avg_pool(x, self.pooled_size),
            self.hidden_features,
            dense=make.dense,
            activation=self.activation,
            dropout_rate=self.dropout_rate,
            deterministic=not train,
            drop_inputs=self.drop_inputs,
        )
        if self.num_classes:
            x = Dense(self.num_classes, **make.dtypes, name="head")(x)
        return finish(x, named, endpoints)

    def _shrink(self, x: jax.Array, *, scale: bool) -> jax.Array:
        """Closes a stage: pools, and applies `response_norm` where there is one."""
        pool = ceil_pool if self.ceil_mode else K.max_pool
        x = pool(x, 3, strides=2)
        return self.response_norm(x) if scale and self.response_norm else x

    def _smallest_image(self) -> int:
        """Returns the least size that leaves one pixel to the last pool."""
        smallest = 1
        for stage in reversed(self.stages):
            smallest = 2 * smallest + (0 if self.ceil_mode else 1)
            window = stage.kernel_size - 2 * stage.padding
            for _ in stage.features:
                smallest = (smallest - 1) * stage.strides + window
        return smallest


FAMILIES = (
    Family(
        name="alexnet",
        module=AlexNet,
        paper=(
            "Krizhevsky, Sutskever and Hinton, ImageNet Classification with Deep "
            "Convolutional Neural Networks"
        ),
        year=2012,
        url=(
            "https://papers.nips.cc/paper/2012/hash/"
            "c399862d3b9d6b76c8436e924a68c45b-Abstract.html"
        ),
        top1_source="ImageNet; torchvision's weights IMAGENET1K_V1",
        variants={
            "alexnet": Variant(
                parameters=61_100_840,
                macs=714_188_480,
                fields={
                    "stages": (
                        Stage((64,), 11, strides=4, padding=2),
                        Stage((192,), 5, padding=2),
                        Stage((384, 256, 256), 3, padding=1),
                    )
                },
                top1=56.522,
            )
        },
    ),
)
