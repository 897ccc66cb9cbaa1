"""VGG (Simonyan and Zisserman 2014).

Stacks of 3x3 convolutions take the place of larger filters: two see 5x5 and three see
7x7, with fewer parameters and more nonlinearities. Resolution halves by max-pooling
and the number of channels doubles, stage after stage. Nothing else varies, so depth
alone is compared: 11 to 19 layers.

It made depth by repetition of one small block the default, and its features served
detection, segmentation and style transfer for years.

For ImageNet, the paper's configurations A, B, D and E, and each with batch
normalisation (Ioffe and Szegedy 2015), which the paper came too early for. Top-1 is
torchvision's, of its weights IMAGENET1K_V1.

    model          parameters     MACs/M   top-1/%
    vgg11         132,863,336    7,609.1     69.02
    vgg11_bn      132,868,840    7,609.1     70.37
    vgg13         133,047,848   11,308.5     69.93
    vgg13_bn      133,053,736   11,308.5     71.59
    vgg16         138,357,544   15,470.3     71.59
    vgg16_bn      138,365,992   15,470.3     73.36
    vgg19         143,667,240   19,632.1     72.38
    vgg19_bn      143,678,248   19,632.1     74.22

For CIFAR-10, that recipe at the size of its images: six convolutions with batch
normalisation and two fully connected layers. No paper has it.

    model          parameters     MACs/M   top-1/%
    vgg8_cifar        551,018       38.9         -

Padding is 1 on every side and filters start from He's normal distribution. Batch
normalisation has epsilon 1e-5, keeps 0.9 of the old statistics and, like PyTorch's,
tracks the unbiased variance; in front of it the convolutions have biases as in
torchvision, but for `vgg8_cifar`. The last maps are averaged, or repeated, to the size
that the fully connected layers are made for, so any image of at least 32x32 is
accepted; by `vgg8_cifar`, of at least 8x8.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import kernels as K
from cnn_jax.geometry import MaxPool
from cnn_jax.layers import (
    BatchNorm,
    ConvNormActivation,
    Dense,
    ModuleFactory,
    apply_stage,
    hidden_features,
    layer_factories,
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


class VGG(ImageNetwork):
    """Stages of 3x3 convolutions, each closed by a 2x2 max-pool, and a classifier.

    Attributes:
      stages: The features of each convolution, stage by stage.
      pooled_size: The height and width that the last maps are averaged to.
      hidden_features: The features of each fully connected layer before the last.
      dropout_rate: The probability of dropping one of those features in training.
      num_classes: The number of logits, or 0 for the last hidden features.
      norm: Makes the normalisation after each convolution, or None for none; it gets
        `use_running_average`, `dtype` and `param_dtype`.
      use_bias: Whether the convolutions have biases even where a norm follows.
      activation: Applied after each layer but the last.
      remat: Whether the backward pass recomputes what is inside the stages.
      dtype: The dtype of the computation.
      param_dtype: The dtype in which the parameters are stored.
    """

    stages: tuple[tuple[int, ...], ...]
    pooled_size: int = 7
    hidden_features: tuple[int, ...] = (4096, 4096)
    dropout_rate: float = 0.5
    num_classes: int = 1000
    norm: ModuleFactory | None = None
    use_bias: bool = True
    activation: Activation = K.relu
    remat: bool = False
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, endpoints: bool = False
    ) -> Output:
        """Returns the logits of images `x` `(n, height, width, channels)`.

        Args:
          x: Normalised images of at least 2 to the number of stages in each direction.
          train: Whether batches are normalised by their own statistics and features
            are dropped (which needs `rngs={"dropout": key}`).
          endpoints: Whether to return `(logits, {"stage1", ..., "features"})`.
        """
        check_images(self, x, minimum_size=2 ** len(self.stages))
        make = layer_factories(self, train=train)
        layer = functools.partial(
            ConvNormActivation,
            conv=make.conv,
            norm=make.norm,
            use_bias=self.use_bias or self.norm is None,
            activation=self.activation,
        )
        named = {}

        for stage, features in enumerate(self.stages, start=1):
            layers = [
                layer(
                    num_features,
                    pool=MaxPool(2) if index == len(features) else None,
                    name=f"stage{stage}_conv{index}",
                )
                for index, num_features in enumerate(features, start=1)
            ]
            x = apply_stage(self, layers, None, x, remat=self.remat)
            named[f"stage{stage}"] = x
        x = named["features"] = hidden_features(
            K.adaptive_avg_pool(x, self.pooled_size),
            self.hidden_features,
            dense=make.dense,
            activation=self.activation,
            dropout_rate=self.dropout_rate,
            deterministic=not train,
        )
        if self.num_classes:
            x = Dense(self.num_classes, **make.dtypes, name="head")(x)
        return finish(x, named, endpoints)


_BATCH_NORM = functools.partial(BatchNorm, unbiased_running_var=True)

# Convolutions per stage, multiply-adds; then parameters and top-1 accuracy without and
# with batch normalisation.
_IMAGENET_SIZES = {
    11: ((1, 1, 2, 2, 2), 7_609_090_048, (132_863_336, 69.020), (132_868_840, 70.370)),
    13: ((2, 2, 2, 2, 2), 11_308_466_176, (133_047_848, 69.928), (133_053_736, 71.586)),
    16: ((2, 2, 3, 3, 3), 15_470_264_320, (138_357_544, 71.592), (138_365_992, 73.360)),
    19: ((2, 2, 4, 4, 4), 19_632_062_464, (143_667_240, 72.376), (143_678_248, 74.218)),
}

_PAPER: PaperAndModule = {
    "module": VGG,
    "paper": (
        "Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale "
        "Image Recognition"
    ),
    "year": 2014,
    "url": "https://arxiv.org/abs/1409.1556",
}


def _imagenet_variants() -> dict[str, Variant]:
    variants = {}
    for depth, (num_convs, macs, plain, normalized) in _IMAGENET_SIZES.items():
        widths = zip(num_convs, (64, 128, 256, 512, 512), strict=True)
        fields = {"stages": tuple((width,) * count for count, width in widths)}
        for suffix, (parameters, top1), norm in (
            ("", plain, {}),
            ("_bn", normalized, {"norm": _BATCH_NORM}),
        ):
            variants[f"vgg{depth}{suffix}"] = Variant(
                parameters, macs, {**fields, **norm}, top1
            )
    return variants


FAMILIES = (
    Family(
        **_PAPER,
        name="vgg",
        top1_source="ImageNet; torchvision's weights IMAGENET1K_V1",
        variants=_imagenet_variants(),
    ),
    Family(
        **_PAPER,
        name="vgg_cifar",
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
                    "pooled_size": 4,
                    "hidden_features": (128,),
                    "norm": _BATCH_NORM,
                    "use_bias": False,
                },
            )
        },
    ),
)
