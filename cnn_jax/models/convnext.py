"""ConvNeXt (Liu et al. 2022).

Vision transformers had overtaken convolutional networks; how much of that is attention,
and how much everything around it? A ResNet-50 is modernised step by step towards a Swin
transformer: patches for a stem, depthwise 7x7 filters, inverted bottlenecks, gelu,
layer normalisation, and few of both. What comes out has no attention and is as good.

It showed that convolutions had not reached their limit, and gave depthwise filters of
7x7 and larger their second life.

    model            parameters     MACs/M   top-1/%
    convnext_tiny        28,589,128     4,455.5     82.52
    convnext_small       50,223,688     8,683.7     83.62
    convnext_base        88,591,464    15,354.7     84.06
    convnext_large      197,767,336    34,361.4     84.41

Top-1 is torchvision's, of its weights IMAGENET1K_V1. Layer normalisation has epsilon
1e-6; gelu is the exact one. Filters start from a normal distribution of deviation 0.02,
cut off at two deviations, layer scales from 1e-6. Any image of at least 32x32 is
accepted.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import kernels as K
from cnn_jax.layers import (
    LayerNorm,
    ModuleFactory,
    StochasticDepth,
    layer_factories,
    rematerialized,
)
from cnn_jax.layers.types import Activation, Dtype
from cnn_jax.models.interface import ImageNetwork, Output, check_images, finish
from cnn_jax.models.registry import Family, Variant


class ConvNeXtBlock(nn.Module):
    """Filter each channel, normalise, expand, project, scale; and the input added.

    Submodules: `depthwise`, `norm`, `expand`, `project` and `stochastic_depth`;
    parameter `layer_scale` `(c,)`.

    Attributes:
      conv: Makes the depthwise convolution.
      dense: Makes the two layers that work at every position alone.
      norm: Makes the normalisation.
      activation: Applied between the two layers.
      stochastic_depth: Makes the layer that drops the branch.
      layer_scale_init: What the layer scale starts from.
      param_dtype: The dtype in which the layer scale is stored.
    """

    conv: ModuleFactory
    dense: ModuleFactory
    norm: ModuleFactory
    activation: Activation
    stochastic_depth: ModuleFactory
    layer_scale_init: float
    param_dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, h, w, c)` mapped to the same shape."""
        channels = x.shape[-1]
        y = self.conv(channels, 7, groups=channels, padding=3, name="depthwise")(x)
        y = self.norm(name="norm")(y)
        y = self.activation(self.dense(4 * channels, name="expand")(y))
        y = self.dense(channels, name="project")(y)
        init = nn.initializers.constant(self.layer_scale_init)
        scale = self.param("layer_scale", init, (channels,), self.param_dtype)
        y = y * scale.astype(y.dtype).reshape(1, 1, 1, -1)
        return x.astype(y.dtype) + self.stochastic_depth(name="stochastic_depth")(y)


class ConvNeXt(ImageNetwork):
    """Patches, stages of blocks with a 2x2 convolution between them, a classifier.

    Attributes:
      stage_sizes: The number of blocks in each stage.
      stage_features: The number of channels, stage by stage.
      stochastic_depth_rate: The probability of dropping a residual branch in training,
        which grows linearly from 0 at the first block to this rate at the last.
      layer_scale_init: What the layer scales start from.
      num_classes: The number of logits, or 0 for the pooled and normalised features.
      norm: Makes the normalisations; it gets `dtype` and `param_dtype`.
      activation: Applied inside the blocks.
      space_to_depth: Whether to compute the first convolution by `SpaceToDepthConv`.
      remat: Whether the backward pass recomputes what is inside the blocks.
      dtype: The dtype of the computation.
      param_dtype: The dtype in which the parameters are stored.
    """

    stage_sizes: tuple[int, ...]
    stage_features: tuple[int, ...]
    stochastic_depth_rate: float
    layer_scale_init: float = 1e-6
    num_classes: int = 1000
    norm: ModuleFactory = functools.partial(LayerNorm, epsilon=1e-6)
    activation: Activation = functools.partial(K.gelu, approximate=False)
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
          x: Normalised images of at least 32x32.
          train: Whether branches are dropped (which needs `rngs={"dropout": key}`).
          endpoints: Whether to return `(logits, {"stem", "stage1", ..., "features"})`.
        """
        check_images(self, x, minimum_size=32)
        make = layer_factories(
            self,
            train=train,
            space_to_depth=self.space_to_depth,
            kernel_init=nn.initializers.truncated_normal(0.02),
        )
        # Layer normalisation is the same in training, and takes no such argument.
        norm = functools.partial(self.norm, **make.dtypes)
        drop_path = functools.partial(StochasticDepth, deterministic=not train)
        block = rematerialized(ConvNeXtBlock) if self.remat else ConvNeXtBlock
        named = {}

        x = make.stem_conv(
            self.stage_features[0], 4, strides=4, padding="VALID", name="stem_conv"
        )(x)
        x = named["stem"] = norm(name="stem_norm")(x)
        num_blocks = sum(self.stage_sizes)
        num_before = 0
        stages = zip(self.stage_sizes, self.stage_features, strict=True)
        for stage, (size, features) in enumerate(stages, start=1):
            if stage > 1:
                x = norm(name=f"stage{stage}_norm")(x)
                x = make.conv(
                    features,
                    2,
                    strides=2,
                    padding="VALID",
                    name=f"stage{stage}_downsample",
                )(x)
            for index in range(1, size + 1):
                rate = self.stochastic_depth_rate * num_before / max(num_blocks - 1, 1)
                x = block(
                    conv=make.conv,
                    dense=make.dense,
                    norm=norm,
                    activation=self.activation,
                    stochastic_depth=functools.partial(drop_path, rate),
                    layer_scale_init=self.layer_scale_init,
                    param_dtype=self.param_dtype,
                    name=f"stage{stage}_block{index}",
                )(x)
                num_before += 1
            named[f"stage{stage}"] = x
        x = K.global_avg_pool(x)
        x = named["features"] = norm(name="head_norm")(x)
        if self.num_classes:
            x = make.dense(self.num_classes, name="head")(x)
        return finish(x, named, endpoints)


# Name: blocks, channels, rate of dropped branches, parameters, multiply-adds, top-1,
# the shorter side that torchvision crops 224 pixels out of, and the share timm keeps.
_SIZES = {
    "tiny": ((3, 3, 9, 3), 96, 0.1, 28_589_128, 4_455_531_264, 82.520, 236, 0.95),
    "small": ((3, 3, 27, 3), 96, 0.4, 50_223_688, 8_683_712_256, 83.616, 230, 0.95),
    "base": ((3, 3, 27, 3), 128, 0.5, 88_591_464, 15_354_729_472, 84.062, 232, 0.875),
    "large": ((3, 3, 27, 3), 192, 0.5, 197_767_336, 34_361_433_600, 84.414, 232, 0.875),
}

FAMILIES = (
    Family(
        name="convnext",
        module=ConvNeXt,
        paper="Liu et al., A ConvNet for the 2020s",
        year=2022,
        url="https://arxiv.org/abs/2201.03545",
        top1_source="ImageNet; torchvision's weights IMAGENET1K_V1",
        variants={
            f"convnext_{name}": Variant(
                parameters=parameters,
                macs=macs,
                fields={
                    "stage_sizes": sizes,
                    "stage_features": (
                        channels,
                        2 * channels,
                        4 * channels,
                        8 * channels,
                    ),
                    "stochastic_depth_rate": rate,
                },
                top1=top1,
                preprocessing={"crop_fraction": 224 / resized},
                preprocessing_by_source={
                    "timm": {"crop_fraction": kept, "interpolation": "bicubic"}
                },
            )
            for name, values in _SIZES.items()
            for sizes, channels, rate, parameters, macs, top1, resized, kept in [values]
        },
    ),
)
