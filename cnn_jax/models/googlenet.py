"""GoogLeNet, the first Inception network (Szegedy et al. 2014).

Objects come in all sizes, so let each block look with 1x1, 3x3 and 5x5 filters and a
max-pool at once and concatenate what they see. That is affordable because 1x1
convolutions first shrink the channels that the large filters must read (the
"bottleneck" that later networks live on). Two auxiliary classifiers half-way give the
lower layers a gradient of their own in training; inference leaves them out, unless it
is asked for endpoints.

It won ImageNet 2014 with a twelfth of AlexNet's parameters (the auxiliary heads not
counted), did without its large dense layers by averaging the last feature map, and
moved the design of networks from stacks of layers to modules.

    model          parameters     MACs/M   top-1/%
    googlenet      13,004,888    1,498.4     69.78

The parameters include the auxiliary heads' 6,379,984. Top-1 is torchvision's, of its
weights IMAGENET1K_V1. Those were trained on images scaled to [-1, 1], and torchvision
rescales its usual input inside the network (`transform_input`): so the mean and the
deviation here are 0.5 instead of ImageNet's.

As in torchvision, each convolution is batch-normalised (the paper is older than batch
normalisation), the "5x5" filters are 3x3, max-pools round their sizes up, and 0.2 of
the last features are dropped instead of 0.4. Filters start from He's normal
distribution; batch normalisation has epsilon 1e-3, keeps 0.9 of the old statistics and
tracks the unbiased variance. Any image of at least 15x15 is accepted.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import geometry
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
from cnn_jax.layers.types import Activation, ConvNormAndActivation, Dtype
from cnn_jax.models.interface import ImageNetwork, Output, check_images, finish
from cnn_jax.models.registry import Family, Variant

# The paper's table 1: the features of the 1x1 branch, of the 3x3 branch before and in
# its large filter, of the 5x5 branch likewise, and of the pooled branch.
_STAGES = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)
_AUXILIARY_AFTER = {"stage2_block1": "aux1", "stage2_block4": "aux2"}
_pool_around = functools.partial(K.max_pool, window=3, strides=1, padding=1)


class GoogLeNet(ImageNetwork):
    """A convolutional stem and three stages of Inception blocks.

    Attributes:
      stages: For each block of each stage, the six numbers of the paper's table 1.
      aux_heads: Whether there are auxiliary classifiers.
      dropout_rate: The probability of dropping one of the pooled features in training.
      aux_dropout_rate: That of dropping one of an auxiliary head's 1,024 features.
      num_classes: The number of logits, or 0 for the pooled features (auxiliary heads
        end in features too, then).
      norm: Makes the normalisations; it gets `use_running_average`, `dtype` and
        `param_dtype`.
      activation: Applied after each normalisation.
      space_to_depth: Whether to compute the 7x7 convolution by `SpaceToDepthConv`.
      remat: Whether the backward pass recomputes what is inside the blocks.
      dtype: The dtype of the computation.
      param_dtype: The dtype in which the parameters are stored.
    """

    stages: tuple[tuple[tuple[int, ...], ...], ...] = _STAGES
    aux_heads: bool = True
    dropout_rate: float = 0.2
    aux_dropout_rate: float = 0.7
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
        return ("aux1", "aux2") if self.aux_heads else ()

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> Output:
        """Returns the logits of images `x` `(n, height, width, channels)`.

        Args:
          x: Normalised images.
          train: Whether batches are normalised by their own statistics, auxiliary
            heads run and features are dropped (which needs `rngs={"dropout": key}`).
          endpoints: Whether auxiliary heads run in inference too, to return `(logits,
            {"stem", "stage1", ..., "aux1", ..., "features"})`.
        """
        check_images(self, x, minimum_size=15)
        make = layer_factories(self, train=train, space_to_depth=self.space_to_depth)
        parts: ConvNormAndActivation = {
            "conv": make.conv,
            "norm": make.norm,
            "activation": self.activation,
        }
        layer = functools.partial(ConvNormActivation, **parts)
        block = rematerialized(Branches) if self.remat else Branches
        # The published multiply-adds are those of logits alone.
        has_aux = self.aux_heads and (train or endpoints or self.is_initializing())
        named = {}

        x = layer(64, 7, strides=2, conv=make.stem_conv, name="stem_conv1")(x)
        x = _halve(x, 3)
        x = layer(64, 1, name="stem_conv2")(x)
        x = layer(192, 3, name="stem_conv3")(x)
        x = named["stem"] = _halve(x, 3)
        for stage, blocks in enumerate(self.stages, start=1):
            if stage > 1:
                x = _halve(x, 3 if stage == 2 else 2)
            for index, sizes in enumerate(blocks, start=1):
                name = f"stage{stage}_block{index}"
                x = block(_inception(*sizes), **parts, name=name)(x)
                aux = _AUXILIARY_AFTER.get(name)
                if aux and has_aux:
                    named[aux] = AuxiliaryHead(
                        self.num_classes,
                        dropout=functools.partial(
                            Dropout, self.aux_dropout_rate, deterministic=not train
                        ),
                        dense=make.dense,
                        **parts,
                        name=aux,
                    )(x)
            named[f"stage{stage}"] = x
        x = named["features"] = K.global_avg_pool(x)
        if self.num_classes:
            x = Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
            x = make.dense(self.num_classes, name="head")(x)
        return finish(x, named, endpoints)


class AuxiliaryHead(nn.Module):
    """A classifier of a coarse view of features `(n, h, w, c)`: 4x4, 1x1 conv, dense.

    Submodules: `conv`, `dense`, `dropout` and, unless `num_classes` is 0, `head`.

    Attributes:
      num_classes: The number of logits, or 0 for the features in front of them.
      dropout: Makes the layer that drops those features.
      dense: Makes the dense layers.
      conv: Makes the convolution.
      norm: Makes the normalisation.
      activation: Applied after the convolution and after the first dense layer.
    """

    num_classes: int
    dropout: ModuleFactory
    dense: ModuleFactory = Dense
    conv: ModuleFactory = Conv
    norm: ModuleFactory = BatchNorm
    activation: Activation = K.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits `(n, num_classes)`, or features `(n, 1024)`."""
        x = ConvNormActivation(
            128,
            1,
            conv=self.conv,
            norm=self.norm,
            activation=self.activation,
            name="conv",
        )(K.adaptive_avg_pool(x, 4))
        x = self.activation(self.dense(1024, name="dense")(x.reshape(x.shape[0], -1)))
        x = self.dropout(name="dropout")(x)
        return self.dense(self.num_classes, name="head")(x) if self.num_classes else x


def _halve(x: jax.Array, window: int) -> jax.Array:
    """Returns the largest of every window at stride 2, the sizes rounded up."""
    padding = [geometry.ceil_padding(size, window, 2) for size in x.shape[1:3]]
    return K.max_pool(x, window, strides=2, padding=padding)


def _inception(direct, reduced3, large3, reduced5, large5, pooled):
    return (
        (BranchConv(direct),),
        (BranchConv(reduced3), BranchConv(large3, 3)),
        (BranchConv(reduced5), BranchConv(large5, 3)),
        (_pool_around, BranchConv(pooled)),
    )


FAMILIES = (
    Family(
        name="googlenet",
        module=GoogLeNet,
        paper="Szegedy et al., Going Deeper with Convolutions",
        year=2014,
        url="https://arxiv.org/abs/1409.4842",
        top1_source="ImageNet; torchvision's weights IMAGENET1K_V1",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        variants={
            "googlenet": Variant(parameters=13_004_888, macs=1_498_376_192, top1=69.778)
        },
    ),
)
