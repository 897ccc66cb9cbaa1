"""DenseNet (Huang, Liu, van der Maaten and Weinberger 2016).

Every layer of a block reads the outputs of all layers before it, concatenated rather
than added. Nothing needs to be carried along or learned twice, so a layer may be very
narrow: it adds only `growth_rate` channels to what the block has collected. A 1x1
convolution before each 3x3 one, and one with an average pool between two blocks, keep
the width in check.

It reached ResNet's accuracy with half the parameters, and reuse of features became a
theme of its own, down to the skip connections of today's segmentation networks.

Top-1 is torchvision's, of its weights IMAGENET1K_V1.

    model          parameters     MACs/M   top-1/%
    densenet121     7,978,856    2,834.2     74.43
    densenet161    28,681,000    7,727.9     77.14
    densenet169    14,149,480    3,359.8     75.60
    densenet201    20,013,928    4,291.4     76.90

The parameters are few, the memory in training is not: each layer keeps its own copy of
the concatenation, so a block's memory grows with the square of its depth. With
`remat`, a layer is given the outputs before it one by one, and the backward pass
concatenates and normalises them again: memory grows with the depth alone, which is the
variant of Pleiss et al., "Memory-Efficient Implementation of DenseNets" (2017).

Padding is 1 on every side (3 in the stem), filters start from He's normal
distribution, batch normalisation has epsilon 1e-5, keeps 0.9 of the old statistics and,
like PyTorch's, tracks the unbiased variance. Any image of at least 29x29 is accepted.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import kernels as K
from cnn_jax.geometry import MaxPool
from cnn_jax.layers import (
    BatchNorm,
    Conv,
    ConvNormActivation,
    Dense,
    Dropout,
    ModuleFactory,
    NormActivationConv,
    layer_factories,
    normalize_and_activate,
    rematerialized,
)
from cnn_jax.layers.types import Activation, Dtype, NormAndActivation
from cnn_jax.models.interface import ImageNetwork, Output, check_images, finish
from cnn_jax.models.registry import Family, Variant


class DenseLayer(nn.Module):
    """A narrow 3x3 convolution of all that came before, behind a 1x1 one.

    Submodules: `conv1`, `conv2` and `dropout`.

    Attributes:
      growth_rate: The number of output channels.
      inner_features: The number of channels between the two convolutions.
      conv: Makes the convolutions.
      norm: Makes the normalisations before them.
      activation: Applied after each normalisation.
      dropout: Makes the layer that drops some of the output.
    """

    growth_rate: int
    inner_features: int
    conv: ModuleFactory = Conv
    norm: ModuleFactory = BatchNorm
    activation: Activation = K.relu
    dropout: ModuleFactory = functools.partial(Dropout, 0.0)

    @nn.compact
    def __call__(self, pieces: Sequence[jax.Array]) -> jax.Array:
        """Returns `(n, h, w, growth_rate)` of several `(n, h, w, c_i)`."""
        layer = functools.partial(
            NormActivationConv,
            conv=self.conv,
            norm=self.norm,
            activation=self.activation,
        )
        x = jnp.concatenate(pieces, axis=-1)
        x = layer(self.inner_features, 1, name="conv1")(x)
        x = layer(self.growth_rate, 3, name="conv2")(x)
        return self.dropout(name="dropout")(x)


class DenseNet(ImageNetwork):
    """Blocks of dense layers, and transitions between that halve width and resolution.

    Attributes:
      stage_sizes: The number of layers in each block.
      growth_rate: The number of channels that a layer adds.
      stem_features: The number of channels after the first convolution.
      inner_ratio: A layer's inner channels, as a multiple of `growth_rate`.
      dropout_rate: The probability of dropping an entry of a layer's output in
        training.
      num_classes: The number of logits, or 0 for the pooled features.
      norm: Makes the normalisations; it gets `use_running_average`, `dtype` and
        `param_dtype`.
      activation: Applied after each normalisation.
      space_to_depth: Whether to compute the 7x7 stem by `SpaceToDepthConv`.
      remat: Whether the backward pass recomputes what is inside the layers.
      dtype: The dtype of the computation.
      param_dtype: The dtype in which the parameters are stored.
    """

    stage_sizes: tuple[int, ...]
    growth_rate: int = 32
    stem_features: int = 64
    inner_ratio: int = 4
    dropout_rate: float = 0.0
    num_classes: int = 1000
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
          train: Whether batches are normalised by their own statistics and, with a
            `dropout_rate`, entries are dropped (which needs `rngs={"dropout": key}`).
          endpoints: Whether to return `(logits, {"stem", "stage1", ...,
            "features"})`.
        """
        # The stem rounds up where it halves, the transitions round down.
        smallest = 2 ** (len(self.stage_sizes) + 1) - 3
        check_images(self, x, minimum_size=smallest)
        make = layer_factories(self, train=train, space_to_depth=self.space_to_depth)
        parts: NormAndActivation = {"norm": make.norm, "activation": self.activation}
        layer = functools.partial(
            rematerialized(DenseLayer) if self.remat else DenseLayer,
            self.growth_rate,
            self.growth_rate * self.inner_ratio,
            conv=make.conv,
            dropout=functools.partial(
                Dropout, self.dropout_rate, deterministic=not train
            ),
            **parts,
        )
        named = {}

        x = ConvNormActivation(
            self.stem_features,
            7,
            strides=2,
            conv=make.stem_conv,
            pool=MaxPool(3, strides=2, padding=1),
            **parts,
            name="stem",
        )(x)
        named["stem"] = x
        for stage, num_layers in enumerate(self.stage_sizes, start=1):
            if stage > 1:
                x = NormActivationConv(
                    x.shape[-1] // 2,
                    1,
                    conv=make.conv,
                    **parts,
                    name=f"stage{stage}_transition",
                )(x)
                x = K.avg_pool(x, 2)
            pieces = [x]
            for index in range(1, num_layers + 1):
                pieces.append(layer(name=f"stage{stage}_block{index}")(pieces))
            x = named[f"stage{stage}"] = jnp.concatenate(pieces, axis=-1)
        x = normalize_and_activate(x, make.norm(name="norm"), self.activation)
        x = named["features"] = K.global_avg_pool(x)
        if self.num_classes:
            x = Dense(self.num_classes, **make.dtypes, name="head")(x)
        return finish(x, named, endpoints)


FAMILIES = (
    Family(
        name="densenet",
        module=DenseNet,
        paper="Huang et al., Densely Connected Convolutional Networks",
        year=2016,
        url="https://arxiv.org/abs/1608.06993",
        top1_source="ImageNet; torchvision's weights IMAGENET1K_V1",
        preprocessing_by_source={"timm": {"interpolation": "bicubic"}},
        variants={
            "densenet121": Variant(
                parameters=7_978_856,
                macs=2_834_161_664,
                fields={"stage_sizes": (6, 12, 24, 16)},
                top1=74.434,
            ),
            "densenet161": Variant(
                parameters=28_681_000,
                macs=7_727_907_072,
                fields={
                    "stage_sizes": (6, 12, 36, 24),
                    "growth_rate": 48,
                    "stem_features": 96,
                },
                top1=77.138,
            ),
            "densenet169": Variant(
                parameters=14_149_480,
                macs=3_359_843_328,
                fields={"stage_sizes": (6, 12, 32, 32)},
                top1=75.600,
            ),
            "densenet201": Variant(
                parameters=20_013_928,
                macs=4_291_365_888,
                fields={"stage_sizes": (6, 12, 48, 32)},
                top1=76.896,
            ),
        },
    ),
)
