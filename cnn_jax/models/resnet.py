"""ResNet and its plain counterpart for CIFAR (He, Zhang, Ren and Sun 2015).

Plain networks get worse with depth even on the training set, although a deeper one
could copy a shallower one and add identities. So let each block learn what to add to
its input rather than the output itself: an identity shortcut carries the input past
two convolutions. Identities, and small corrections to them, are then easy to find,
and 110 layers train where 56 plain ones already fail.

Shortcuts became part of nearly every network since, convolutional or not.

These are the networks of section 4.2: three stages of `n` blocks with 16, 32 and 64
channels, 6n + 2 layers, and the same without shortcuts. Where a stage begins, the
shortcut takes every second pixel and fills the new channels with zeros (the paper's
option A), half of them in front and half behind; the paper leaves the place open, and
this is the one that the public PyTorch weights were trained with. Padding is 1 on every
side, filters start from He's normal distribution, batch normalisation has epsilon
1e-5 and keeps 0.9 of the old statistics.

Any image of at least 4x4 is accepted.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import kernels as K
from cnn_jax.layers import BatchNorm, Conv, ConvNormActivation, Dense, ModuleFactory
from cnn_jax.layers.types import Activation, Dtype
from cnn_jax.models.interface import check_images, finish
from cnn_jax.models.registry import IMAGENET_MEAN, IMAGENET_STD, Family, Variant


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, and the input added before the last activation.

    Attributes:
      features: The number of output channels.
      strides: The first convolution's strides.
      residual: Whether there is a shortcut.
      conv: Makes the convolutions.
      norm: Makes the normalisations.
      activation: Applied after the first convolution and after the sum.
    """

    features: int
    strides: int
    residual: bool
    conv: ModuleFactory
    norm: ModuleFactory
    activation: Activation

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, h, w, c)` mapped to `(n, h', w', features)`."""
        layer = functools.partial(
            ConvNormActivation, self.features, 3, conv=self.conv, norm=self.norm
        )
        y = layer(strides=self.strides, activation=self.activation, name="conv1")(x)
        y = layer(activation=None, name="conv2")(y)
        if self.residual:
            y = y + zero_padded_shortcut(x, self.features, self.strides)
        return self.activation(y)


def zero_padded_shortcut(x: jax.Array, features: int, strides: int) -> jax.Array:
    """Returns every `strides`-th pixel of `x`, with zeros for the missing channels.

    Args:
      x: Activations `(n, h, w, c)`.
      features: The number of output channels, at least `c`.
      strides: The step between two pixels.

    Returns:
      An array `(n, ceil(h / strides), ceil(w / strides), features)`.

    Raises:
      ValueError: If `features` is less than `c`.
    """
    missing = features - x.shape[-1]
    if missing < 0:
        raise ValueError(
            f"features: got {features}, expected at least the {x.shape[-1]} channels "
            "that the shortcut carries."
        )
    front = missing // 2
    return jnp.pad(
        x[:, ::strides, ::strides], ((0, 0), (0, 0), (0, 0), (front, missing - front))
    )


class CifarResNet(nn.Module):
    """Stages of blocks, of which all but the first halve the resolution at their start.

    Attributes:
      num_blocks: The number of blocks in each stage.
      stage_features: The number of channels, stage by stage.
      residual: Whether the blocks have shortcuts.
      num_classes: The number of logits, or 0 for the pooled features.
      norm: Makes the normalisations; it gets `use_running_average`, `dtype` and
        `param_dtype`.
      activation: Applied after each normalisation.
      dtype: The dtype of the computation.
      param_dtype: The dtype in which the parameters are stored.
    """

    num_blocks: int
    stage_features: tuple[int, ...] = (16, 32, 64)
    residual: bool = True
    num_classes: int = 10
    norm: ModuleFactory = functools.partial(BatchNorm, momentum=0.9, epsilon=1e-5)
    activation: Activation = K.relu
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, endpoints: bool = False):
        """Returns the logits of images `x` `(n, height, width, channels)`.

        Args:
          x: Normalised images.
          train: Whether batches are normalised by their own statistics.
          endpoints: Whether to return `(logits, {"stem", "stage1", ...,
            "features"})`.
        """
        smallest = 2 ** (len(self.stage_features) - 1)
        check_images(x, minimum_size=smallest, model="CifarResNet")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
        parts = {
            "conv": functools.partial(Conv, kernel_init=he_normal, **dtypes),
            "norm": functools.partial(
                self.norm, use_running_average=not train, **dtypes
            ),
            "activation": self.activation,
        }
        named = {}

        x = ConvNormActivation(self.stage_features[0], 3, **parts, name="stem")(x)
        named["stem"] = x
        for stage, features in enumerate(self.stage_features, start=1):
            for index in range(1, self.num_blocks + 1):
                x = BasicBlock(
                    features,
                    strides=2 if stage > 1 and index == 1 else 1,
                    residual=self.residual,
                    **parts,
                    name=f"stage{stage}_block{index}",
                )(x)
            named[f"stage{stage}"] = x
        x = named["features"] = K.global_avg_pool(x)
        if self.num_classes:
            x = Dense(self.num_classes, kernel_init=he_normal, **dtypes, name="head")(x)
        return finish(x, named, endpoints)


# num_blocks: (parameters, multiply-adds); the shortcuts of option A cost neither.
_SIZES = {
    3: (269_722, 40_551_040),
    5: (464_154, 68_862_592),
    7: (658_586, 97_174_144),
    9: (853_018, 125_485_696),
    18: (1_727_962, 252_887_680),
}

FAMILY = Family(
    name="resnet_cifar",
    module=CifarResNet,
    paper="He et al., Deep Residual Learning for Image Recognition",
    year=2015,
    url="https://arxiv.org/abs/1512.03385",
    input_shape=(32, 32, 3),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    variants={
        f"{kind}{6 * num_blocks + 2}": Variant(
            parameters, macs, {"num_blocks": num_blocks, "residual": residual}
        )
        for kind, residual in (("resnet", True), ("plain", False))
        for num_blocks, (parameters, macs) in _SIZES.items()
    },
)
