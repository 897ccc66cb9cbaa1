"""ConvNeXt (Liu, Mao, Wu, Feichtenhofer, Darrell and Xie 2022).

What if a ResNet were given all that vision transformers had brought, except attention?
Images enter as 4x4 patches; a 7x7 depthwise convolution mixes positions and two dense
layers, four times wider inside, mix channels; there is one LayerNorm and one GELU to a
block. Step by step, from ResNet-50 on, this closes the distance to Swin transformers.

It ended the belief that attention was what made the difference, and gave dense
prediction a plain convolutional backbone again.

Top-1 is torchvision's, of its weights IMAGENET1K_V1.

    model             parameters     MACs/M   top-1/%
    convnext_tiny     28,589,128    4,455.5     82.52
    convnext_small    50,223,688    8,683.7     83.62
    convnext_base     88,591,464   15,354.7     84.06
    convnext_large   197,767,336   34,361.4     84.41

Patches are not padded, the depthwise filters by 3 on every side. Layer normalisation,
also of the pooled features, has epsilon 1e-6; GELU is the exact one; layer scales start
at 1e-6 and filters from a truncated normal distribution of deviation 0.02. Branches are
dropped as often as in torchvision. Any image of at least 32x32 is accepted.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import dtypes as flax_dtypes

from cnn_jax import kernels as K
from cnn_jax.layers import (
    Conv,
    ConvNormActivation,
    Dense,
    LayerNorm,
    ModuleFactory,
    NormActivationConv,
    SpaceToDepthConv,
    StochasticDepth,
    rematerialized,
)
from cnn_jax.layers.types import Activation, Dtype
from cnn_jax.models.interface import check_images, finish
from cnn_jax.models.registry import Family, Variant


class LayerScale(nn.Module):
    """Multiplies each channel by a learned factor that starts small (Touvron 2021).

    Parameter: `scale` `(c,)`.

    Attributes:
      initial: What the factors are before training.
      dtype: The dtype of the output; None takes the one that `x` and `scale` promote
        to.
      param_dtype: The dtype in which the factors are stored.
    """

    initial: float = 1e-6
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(..., c)` with its channels scaled."""
        init, shape = nn.initializers.constant(self.initial), (x.shape[-1],)
        scale = self.param("scale", init, shape, self.param_dtype)
        x, scale = flax_dtypes.promote_dtype(x, scale, dtype=self.dtype)
        return x * scale.reshape((1,) * (x.ndim - 1) + shape)


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution, then an MLP at every position, and the input added.

    Submodules: `depthwise`, `norm`, `expand`, `project`, `layer_scale` and
    `stochastic_depth`.

    Attributes:
      kernel_size: The depthwise filter's size.
      expansion: How many times wider the MLP is inside.
      conv: Makes the depthwise convolution.
      norm: Makes the normalisation after it.
      dense: Makes the MLP's layers.
      activation: Applied between them.
      layer_scale: Makes the factors of the branch's channels.
      stochastic_depth: Makes the layer that drops the branch.
    """

    kernel_size: int = 7
    expansion: int = 4
    conv: ModuleFactory = Conv
    norm: ModuleFactory = LayerNorm
    dense: ModuleFactory = Dense
    activation: Activation = functools.partial(K.gelu, approximate=False)
    layer_scale: ModuleFactory = LayerScale
    stochastic_depth: ModuleFactory = functools.partial(StochasticDepth, 0.0)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns an array of the shape of `x` `(n, h, w, c)`."""
        channels = x.shape[-1]
        y = self.conv(channels, self.kernel_size, groups=channels, name="depthwise")(x)
        y = self.norm(name="norm")(y)
        y = self.dense(channels * self.expansion, name="expand")(y)
        y = self.dense(channels, name="project")(self.activation(y))
        y = self.layer_scale(name="layer_scale")(y)
        return x + self.stochastic_depth(name="stochastic_depth")(y)


class ConvNeXt(nn.Module):
    """Patches, and stages of blocks of which all but the first halve the resolution.

    Attributes:
      stage_sizes: The number of blocks in each stage.
      stage_features: The number of channels, stage by stage.
      patch_size: Height and width of the patches that the image is cut into.
      layer_scale: What the blocks' layer scales are before training.
      stochastic_depth_rate: The probability of dropping a block in training, which
        grows linearly from 0 at the first block to this at the last.
      num_classes: The number of logits, or 0 for the pooled and normalised features.
      norm: Makes the normalisations; it gets `dtype` and `param_dtype`.
      activation: Applied inside the blocks.
      space_to_depth: Whether to cut patches by `SpaceToDepthConv`.
      remat: Whether the backward pass recomputes what is inside the blocks.
      dtype: The dtype of the computation.
      param_dtype: The dtype in which the parameters are stored.
    """

    stage_sizes: tuple[int, ...]
    stage_features: tuple[int, ...]
    patch_size: int = 4
    layer_scale: float = 1e-6
    stochastic_depth_rate: float = 0.0
    num_classes: int = 1000
    norm: ModuleFactory = functools.partial(LayerNorm, epsilon=1e-6)
    activation: Activation = functools.partial(K.gelu, approximate=False)
    space_to_depth: bool = False
    remat: bool = False
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, endpoints: bool = False):
        """Returns the logits of images `x` `(n, height, width, channels)`.

        Args:
          x: Normalised images.
          train: Whether blocks are dropped (which needs `rngs={"dropout": key}`).
          endpoints: Whether to return `(logits, {"stem", "stage1", ...,
            "features"})`.
        """
        smallest = self.patch_size * 2 ** (len(self.stage_sizes) - 1)
        check_images(x, minimum_size=smallest, model="ConvNeXt")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        filters = {"kernel_init": nn.initializers.truncated_normal(0.02), **dtypes}
        conv = functools.partial(Conv, **filters)
        first = SpaceToDepthConv if self.space_to_depth else Conv
        norm = functools.partial(self.norm, **dtypes)
        block = functools.partial(
            rematerialized(ConvNeXtBlock) if self.remat else ConvNeXtBlock,
            conv=conv,
            norm=norm,
            dense=functools.partial(Dense, **filters),
            activation=self.activation,
            layer_scale=functools.partial(LayerScale, self.layer_scale, **dtypes),
        )
        patches = {"padding": "VALID", "use_bias": True, "norm": norm}
        patches["activation"] = None
        named = {}

        x = named["stem"] = ConvNormActivation(
            self.stage_features[0],
            self.patch_size,
            strides=self.patch_size,
            conv=functools.partial(first, **filters),
            **patches,
            name="stem",
        )(x)
        last_block, index = max(sum(self.stage_sizes) - 1, 1), 0
        stages = zip(self.stage_sizes, self.stage_features, strict=True)
        for stage, (num_blocks, features) in enumerate(stages, start=1):
            if stage > 1:
                x = NormActivationConv(
                    features,
                    2,
                    strides=2,
                    conv=conv,
                    **patches,
                    name=f"stage{stage}_downsample",
                )(x)
            for number in range(1, num_blocks + 1):
                rate = self.stochastic_depth_rate * index / last_block
                x = block(
                    stochastic_depth=functools.partial(
                        StochasticDepth, rate, deterministic=not train
                    ),
                    name=f"stage{stage}_block{number}",
                )(x)
                index += 1
            named[f"stage{stage}"] = x
        x = named["features"] = norm(name="norm")(K.global_avg_pool(x))
        if self.num_classes:
            x = Dense(self.num_classes, **filters, name="head")(x)
        return finish(x, named, endpoints)


FAMILIES = (
    Family(
        name="convnext",
        module=ConvNeXt,
        paper="Liu et al., A ConvNet for the 2020s",
        year=2022,
        url="https://arxiv.org/abs/2201.03545",
        top1_source="ImageNet; torchvision's weights IMAGENET1K_V1",
        variants={
            "convnext_tiny": Variant(
                parameters=28_589_128,
                macs=4_455_531_264,
                fields={
                    "stage_sizes": (3, 3, 9, 3),
                    "stage_features": (96, 192, 384, 768),
                    "stochastic_depth_rate": 0.1,
                },
                top1=82.520,
            ),
            "convnext_small": Variant(
                parameters=50_223_688,
                macs=8_683_712_256,
                fields={
                    "stage_sizes": (3, 3, 27, 3),
                    "stage_features": (96, 192, 384, 768),
                    "stochastic_depth_rate": 0.4,
                },
                top1=83.616,
            ),
            "convnext_base": Variant(
                parameters=88_591_464,
                macs=15_354_729_472,
                fields={
                    "stage_sizes": (3, 3, 27, 3),
                    "stage_features": (128, 256, 512, 1024),
                    "stochastic_depth_rate": 0.5,
                },
                top1=84.062,
            ),
            "convnext_large": Variant(
                parameters=197_767_336,
                macs=34_361_433_600,
                fields={
                    "stage_sizes": (3, 3, 27, 3),
                    "stage_features": (192, 384, 768, 1536),
                    "stochastic_depth_rate": 0.5,
                },
                top1=84.414,
            ),
        },
    ),
)
