"""ResNet and its plain counterpart (He, Zhang, Ren and Sun 2015).

Plain networks get worse with depth even on the training set, although a deeper one
could copy a shallower one and add identities. So let each block learn what to add to
its input rather than the output itself: an identity shortcut carries the input past
two or three convolutions. Identities, and small corrections to them, are then easy to
find, and 110 layers train where 56 plain ones already fail.

It won ImageNet 2015 with 152 layers, and shortcuts became part of nearly every network
since, convolutional or not.

For ImageNet, four stages behind a 7x7 stem, with blocks of two convolutions or, from
50 layers on, bottlenecks of three; shortcuts that change their shape are projected
(option B). Top-1 is torchvision's, of its weights IMAGENET1K_V1.

    model          parameters     MACs/M   top-1/%
    resnet18       11,689,512    1,814.1     69.76
    resnet34       21,797,672    3,663.8     73.31
    resnet50       25,557,032    4,089.2     76.13
    resnet101      44,549,160    7,801.4     77.37
    resnet152      60,192,808   11,513.6     78.31

For CIFAR-10, the networks of section 4.2: three stages of `n` blocks with 16, 32 and 64
channels, 6n + 2 layers, and the same without shortcuts. Where a stage begins, the
shortcut takes every second pixel and fills the new channels with zeros (option A), half
of them in front and half behind; the paper leaves the place open, and this is the one
that the public PyTorch weights were trained with. Top-1 is the paper's (table 6).

    model          parameters     MACs/M   top-1/%
    resnet20          269,722       40.6     91.25
    resnet32          464,154       68.9     92.49
    resnet44          658,586       97.2     92.83
    resnet56          853,018      125.5     93.03
    resnet110       1,727,962      252.9     93.57
    plain20           269,722       40.6         -
    plain32           464,154       68.9         -
    plain44           658,586       97.2         -
    plain56           853,018      125.5         -
    plain110        1,727,962      252.9         -

Padding is 1 on every side, filters start from He's normal distribution, batch
normalisation has epsilon 1e-5, keeps 0.9 of the old statistics and, like PyTorch's,
tracks the unbiased variance. Any image of at least 32x32 is accepted; by the networks
for CIFAR-10, of at least 4x4.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import kernels as K
from cnn_jax.geometry import MaxPool
from cnn_jax.layers import (
    BasicBlock,
    BatchNorm,
    Bottleneck,
    ConvNormActivation,
    DropBlock,
    ModuleFactory,
    StochasticDepth,
    layer_factories,
    rematerialized,
    zero_padded_shortcut,
)
from cnn_jax.layers.types import Activation, Dtype, NormAndActivation
from cnn_jax.models.interface import ImageNetwork, Output, check_images, finish
from cnn_jax.models.registry import Family, PaperAndModule, Variant


class ResNet(ImageNetwork):
    """Stages of blocks, of which all but the first halve the resolution at their start.

    Attributes:
      stage_sizes: The number of blocks in each stage.
      stage_features: The number of output channels, stage by stage.
      block: Makes the blocks.
      squeeze_excite: Makes the channel gates at the ends of the blocks' branches, or
        None; it gets `dense`.
      stem_features: The number of channels after the first convolution.
      small_images: Whether the stem is a 3x3 convolution that keeps the resolution,
        instead of a 7x7 one and a max-pool that quarter it.
      num_classes: The number of logits, or 0 for the pooled features.
      stochastic_depth_rate: The probability of dropping a residual branch in training,
        which grows linearly from the first block to this at the last.
      drop_block_rate: The share of the output of each block of the last two stages that
        is dropped in squares, in training.
      drop_block_size: The squares' side.
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
    block: ModuleFactory = BasicBlock
    squeeze_excite: ModuleFactory | None = None
    stem_features: int = 64
    small_images: bool = False
    num_classes: int = 1000
    stochastic_depth_rate: float = 0.0
    drop_block_rate: float = 0.0
    drop_block_size: int = 7
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
          train: Whether batches are normalised by their own statistics, and something
            is dropped (which needs `rngs={"dropout": key}`).
          endpoints: Whether to return `(logits, {"stem", "stage1", ...,
            "features"})`.
        """
        smallest = 2 ** (len(self.stage_sizes) - (1 if self.small_images else -1))
        check_images(self, x, minimum_size=smallest)
        make = layer_factories(self, train=train, space_to_depth=self.space_to_depth)
        parts: NormAndActivation = {"norm": make.norm, "activation": self.activation}
        block = rematerialized(self.block) if self.remat else self.block
        squeeze_excite = None
        if self.squeeze_excite is not None:
            squeeze_excite = functools.partial(self.squeeze_excite, dense=make.dense)
        named = {}

        if self.small_images:
            x = ConvNormActivation(
                self.stem_features, 3, conv=make.conv, **parts, name="stem"
            )(x)
        else:
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
        stages = zip(self.stage_sizes, self.stage_features, strict=True)
        total, number = sum(self.stage_sizes), 0
        for stage, (num_blocks, features) in enumerate(stages, start=1):
            for index in range(1, num_blocks + 1):
                number += 1
                x = block(
                    features,
                    strides=2 if stage > 1 and index == 1 else 1,
                    conv=make.conv,
                    squeeze_excite=squeeze_excite,
                    stochastic_depth=self._stochastic_depth(number / total, train),
                    **parts,
                    name=f"stage{stage}_block{index}",
                )(x)
                if self.drop_block_rate and stage > len(self.stage_sizes) - 2:
                    x = DropBlock(
                        self.drop_block_rate,
                        self.drop_block_size,
                        deterministic=not train,
                        name=f"stage{stage}_drop{index}",
                    )(x)
            named[f"stage{stage}"] = x
        x = named["features"] = K.global_avg_pool(x)
        if self.num_classes:
            x = make.dense(self.num_classes, name="head")(x)
        return finish(x, named, endpoints)

    def _stochastic_depth(self, depth: float, train: bool) -> ModuleFactory | None:
        """Returns what drops a branch, at this part of the way to the last block."""
        if not self.stochastic_depth_rate:
            return None
        rate = self.stochastic_depth_rate * depth
        return functools.partial(StochasticDepth, rate, deterministic=not train)


_BASIC = {"stage_features": (64, 128, 256, 512)}
_BOTTLENECK = {"stage_features": (256, 512, 1024, 2048), "block": Bottleneck}
_CIFAR = {"stage_features": (16, 32, 64), "stem_features": 16, "small_images": True}
_OPTION_A = functools.partial(BasicBlock, shortcut=zero_padded_shortcut)
_PLAIN = functools.partial(BasicBlock, shortcut=None)

# Blocks per stage: parameters, multiply-adds (the shortcuts of option A cost neither)
# and the top-1 accuracy of the network with shortcuts.
_CIFAR_SIZES = {
    3: (269_722, 40_551_040, 91.25),
    5: (464_154, 68_862_592, 92.49),
    7: (658_586, 97_174_144, 92.83),
    9: (853_018, 125_485_696, 93.03),
    18: (1_727_962, 252_887_680, 93.57),
}

_PAPER: PaperAndModule = {
    "module": ResNet,
    "paper": "He et al., Deep Residual Learning for Image Recognition",
    "year": 2015,
    "url": "https://arxiv.org/abs/1512.03385",
}

FAMILIES = (
    Family(
        **_PAPER,
        name="resnet",
        top1_source="ImageNet; torchvision's weights IMAGENET1K_V1",
        preprocessing_by_source={
            "timm": {"crop_fraction": 0.95, "interpolation": "bicubic"}
        },
        variants={
            "resnet18": Variant(
                parameters=11_689_512,
                macs=1_814_073_344,
                fields={"stage_sizes": (2, 2, 2, 2), **_BASIC},
                top1=69.758,
            ),
            "resnet34": Variant(
                parameters=21_797_672,
                macs=3_663_761_408,
                fields={"stage_sizes": (3, 4, 6, 3), **_BASIC},
                top1=73.314,
            ),
            "resnet50": Variant(
                parameters=25_557_032,
                macs=4_089_184_256,
                fields={"stage_sizes": (3, 4, 6, 3), **_BOTTLENECK},
                top1=76.130,
            ),
            "resnet101": Variant(
                parameters=44_549_160,
                macs=7_801_405_440,
                fields={"stage_sizes": (3, 4, 23, 3), **_BOTTLENECK},
                top1=77.374,
            ),
            "resnet152": Variant(
                parameters=60_192_808,
                macs=11_513_626_624,
                fields={"stage_sizes": (3, 8, 36, 3), **_BOTTLENECK},
                top1=78.312,
            ),
        },
    ),
    Family(
        **_PAPER,
        name="resnet_cifar",
        top1_source="CIFAR-10; the paper's table 6",
        num_classes=10,
        input_shape=(32, 32, 3),
        variants={
            f"{kind}{6 * num_blocks + 2}": Variant(
                parameters,
                macs,
                {"stage_sizes": (num_blocks,) * 3, "block": block, **_CIFAR},
                top1 if kind == "resnet" else None,
            )
            for kind, block in (("resnet", _OPTION_A), ("plain", _PLAIN))
            for num_blocks, (parameters, macs, top1) in _CIFAR_SIZES.items()
        },
    ),
)
