"""Inception v3 (Szegedy, Vanhoucke, Ioffe, Shlens and Wojna 2015).

Large filters are factorised: a 5x5 into two 3x3, and a 7x7 into a 1x7 and a 7x1, which
see as much for a fraction of the multiply-adds. Where the resolution falls, strided
convolutions and a pooling stand side by side, so that no layer squeezes the
representation. Labels are smoothed, every convolution is batch-normalised, and one
auxiliary head regularises the training.

It wrote down design principles where GoogLeNet had shown an instance, and label
smoothing and factorised filters outlived the network.

    model           parameters     MACs/M   top-1/%
    inception_v3    27,161,264    5,713.2     77.29

The parameters include the auxiliary head's 3,326,696. Top-1 is torchvision's, of its
weights IMAGENET1K_V1. Those were trained on images scaled to [-1, 1], and torchvision
rescales its usual input inside the network (`transform_input`): so the mean and the
deviation here are 0.5 instead of ImageNet's.

Where a size halves, and in most of the stem, nothing is padded; elsewhere as much as
keeps the size. Filters start from He's normal distribution; batch normalisation has
epsilon 1e-3, keeps 0.9 of the old statistics and, like PyTorch's, tracks the unbiased
variance. Any image of at least 75x75 is accepted. The auxiliary head pools its input
to 5x5 or more; below 299x299, where torchvision's cannot run, adaptively to 5x5.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import kernels as K
from cnn_jax.layers import (
    BatchNorm,
    BranchConv,
    Branches,
    Conv,
    ConvNormActivation,
    Dense,
    Dropout,
    ModuleFactory,
    layer_factories,
    rematerialized,
)
from cnn_jax.layers.branches import BranchStep
from cnn_jax.layers.types import Activation, ConvNormAndActivation, Dtype
from cnn_jax.models.interface import ImageNetwork, Output, check_images, finish
from cnn_jax.models.registry import Family, Variant

_average_around = functools.partial(K.avg_pool, window=3, strides=1, padding=1)
_halve = functools.partial(K.max_pool, window=3, strides=2)


def _factorized_5x5(pooled):
    """Figure 5: the 5x5 filters of a second branch are two 3x3."""
    return (
        (BranchConv(64),),
        (BranchConv(48), BranchConv(64, 5)),
        (BranchConv(64), BranchConv(96, 3), BranchConv(96, 3)),
        (_average_around, BranchConv(pooled)),
    )


def _factorized_7x7(inner):
    """Figure 6: 7x7 filters are 1x7 and 7x1, once and twice."""
    across, down = BranchConv(inner, (1, 7)), BranchConv(inner, (7, 1))
    return (
        (BranchConv(192),),
        (BranchConv(inner), across, BranchConv(192, (7, 1))),
        (BranchConv(inner), down, across, down, BranchConv(192, (1, 7))),
        (_average_around, BranchConv(192)),
    )


_SIDE_BY_SIDE = (BranchConv(384, (1, 3)), BranchConv(384, (3, 1)))
# Figure 7: 3x3 filters are 1x3 beside 3x1, for wide outputs.
_WIDE = (
    (BranchConv(320),),
    (BranchConv(384), _SIDE_BY_SIDE),
    (BranchConv(448), BranchConv(384, 3), _SIDE_BY_SIDE),
    (_average_around, BranchConv(192)),
)
# Figure 10: strided convolutions beside a pooling.
_REDUCE_TO_17 = (
    (BranchConv(384, 3, strides=2, padding=0),),
    (BranchConv(64), BranchConv(96, 3), BranchConv(96, 3, strides=2, padding=0)),
    (_halve,),
)
_REDUCE_TO_8 = (
    (BranchConv(192), BranchConv(320, 3, strides=2, padding=0)),
    (
        BranchConv(192),
        BranchConv(192, (1, 7)),
        BranchConv(192, (7, 1)),
        BranchConv(192, 3, strides=2, padding=0),
    ),
    (_halve,),
)
_STAGES = (
    tuple(map(_factorized_5x5, (32, 64, 64))),
    (_REDUCE_TO_17, *map(_factorized_7x7, (128, 160, 160, 192))),
    (_REDUCE_TO_8, _WIDE, _WIDE),
)


Block = tuple[tuple[BranchStep, ...], ...]
"""The branches of one block."""


class InceptionV3(ImageNetwork):
    """A convolutional stem and three stages of factorised Inception blocks.

    Attributes:
      stages: The branches of each block of each stage.
      aux_heads: Whether there is an auxiliary classifier, behind the second stage.
      dropout_rate: The probability of dropping one of the pooled features in training.
      num_classes: The number of logits, or 0 for the pooled features (the auxiliary
        head ends in features too, then).
      norm: Makes the normalisations; it gets `use_running_average`, `dtype` and
        `param_dtype`.
      activation: Applied after each normalisation.
      space_to_depth: Whether to compute the first convolution by `SpaceToDepthConv`.
      remat: Whether the backward pass recomputes what is inside the blocks.
      dtype: The dtype of the computation.
      param_dtype: The dtype in which the parameters are stored.
    """

    stages: tuple[tuple[Block, ...], ...] = _STAGES
    aux_heads: bool = True
    dropout_rate: float = 0.5
    num_classes: int = 1000
    norm: ModuleFactory = functools.partial(
        BatchNorm, epsilon=1e-3, unbiased_running_var=True
    )
    activation: Activation = K.relu
    space_to_depth: bool = False
    remat: bool = False
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @property
    def auxiliary_endpoints(self) -> tuple[str, ...]:
        """The endpoints that are auxiliary classifiers, for the training loss."""
        return ("aux1",) if self.aux_heads else ()

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> Output:
        """Returns the logits of images `x` `(n, height, width, channels)`.

        Args:
          x: Normalised images.
          train: Whether batches are normalised by their own statistics, the auxiliary
            head runs and features are dropped (which needs `rngs={"dropout": key}`).
          endpoints: Whether the auxiliary head runs in inference too, to return
            `(logits, {"stem", "stage1", ..., "aux1", "features"})`.
        """
        check_images(self, x, minimum_size=75)
        make = layer_factories(self, train=train, space_to_depth=self.space_to_depth)
        parts: ConvNormAndActivation = {
            "conv": make.conv,
            "norm": make.norm,
            "activation": self.activation,
        }
        layer = functools.partial(ConvNormActivation, padding=0, **parts)
        block = rematerialized(Branches) if self.remat else Branches
        # The published multiply-adds are those of logits alone.
        has_aux = self.aux_heads and (train or endpoints or self.is_initializing())
        named = {}

        x = layer(32, 3, strides=2, conv=make.stem_conv, name="stem_conv1")(x)
        x = layer(32, 3, name="stem_conv2")(x)
        x = _halve(layer(64, 3, padding=1, name="stem_conv3")(x))
        x = layer(80, 1, name="stem_conv4")(x)
        x = named["stem"] = _halve(layer(192, 3, name="stem_conv5")(x))
        for stage, blocks in enumerate(self.stages, start=1):
            for index, branches in enumerate(blocks, start=1):
                name = f"stage{stage}_block{index}"
                x = block(branches, **parts, name=name)(x)
            named[f"stage{stage}"] = x
            if stage == 2 and has_aux:
                named["aux1"] = AuxiliaryHead(
                    self.num_classes, dense=make.dense, **parts, name="aux1"
                )(x)
        x = named["features"] = K.global_avg_pool(x)
        if self.num_classes:
            x = Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
            x = make.dense(self.num_classes, name="head")(x)
        return finish(x, named, endpoints)


class AuxiliaryHead(nn.Module):
    """A classifier of a 5x5 view of features `(n, h, w, c)`.

    Submodules: `conv1`, `conv2` and, unless `num_classes` is 0, `head`.

    Attributes:
      num_classes: The number of logits, or 0 for the features in front of them.
      dense: Makes the dense layer.
      conv: Makes the convolutions.
      norm: Makes the normalisations.
      activation: Applied after each normalisation.
    """

    num_classes: int
    dense: ModuleFactory = Dense
    conv: ModuleFactory = Conv
    norm: ModuleFactory = BatchNorm
    activation: Activation = K.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits `(n, num_classes)`, or features `(n, 768)`."""
        layer = functools.partial(
            ConvNormActivation,
            padding=0,
            conv=self.conv,
            norm=self.norm,
            activation=self.activation,
        )
        if min(x.shape[1:3]) >= 17:
            x = K.avg_pool(x, 5, strides=3)
        else:
            x = K.adaptive_avg_pool(x, 5)
        x = layer(128, 1, name="conv1")(x)
        x = K.global_avg_pool(layer(768, 5, name="conv2")(x))
        return self.dense(self.num_classes, name="head")(x) if self.num_classes else x


FAMILIES = (
    Family(
        name="inception_v3",
        module=InceptionV3,
        paper=(
            "Szegedy et al., Rethinking the Inception Architecture for Computer Vision"
        ),
        year=2015,
        url="https://arxiv.org/abs/1512.00567",
        input_shape=(299, 299, 3),
        top1_source="ImageNet; torchvision's weights IMAGENET1K_V1",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        preprocessing={"crop_fraction": 299 / 342},
        preprocessing_by_source={
            "timm": {"crop_fraction": 0.875, "interpolation": "bicubic"}
        },
        variants={
            "inception_v3": Variant(
                parameters=27_161_264, macs=5_713_216_096, top1=77.294
            )
        },
    ),
)
