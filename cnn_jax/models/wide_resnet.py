"""Wide ResNet (Zagoruyko and Komodakis 2016).

A ResNet of a thousand layers wins little over one of a hundred: with an identity around
each block, many blocks learn almost nothing. So make it shallow and its blocks `k`
times as wide: the same parameters then do better, and train several times faster
because wide convolutions keep a GPU busy where many thin ones in a row do not. Between
a block's two convolutions, dropout keeps the wide ones from overfitting.

It turned attention from depth to width, and WRN-28-10 became the network on which CIFAR
papers for years compared augmentation, regularisation and semi-supervised learning.

For ImageNet, ResNets whose inner 3x3 convolutions are twice as wide. Top-1 is
torchvision's, of its weights IMAGENET1K_V1.

    model               parameters     MACs/M   top-1/%
    wide_resnet50_2     68,883,240   11,398.0     78.47
    wide_resnet101_2   126,886,696   22,753.1     78.85

For CIFAR-10, the paper's WRN-28-10: pre-activation basic blocks, three stages of n = 4
with 160, 320 and 640 channels (k = 10). Top-1 is the paper's (table 5, without dropout,
the median of 5 runs); with a `dropout_rate` of 0.3 it is 96.11.

    model               parameters     MACs/M   top-1/%
    wide_resnet28_10    36,479,194    5,243.3     96.00

Conventions are those of `resnet` and `resnet_v2`. Any image of at least 32x32 is
accepted; by the network for CIFAR-10, of at least 4x4.
"""

import functools

from cnn_jax.layers import Bottleneck, PreactivationBasicBlock
from cnn_jax.models.registry import CIFAR10_MEAN, CIFAR10_STD, Family, Paper, Variant
from cnn_jax.models.resnet import ResNet
from cnn_jax.models.resnet_v2 import ResNetV2

_PAPER: Paper = {
    "paper": "Zagoruyko and Komodakis, Wide Residual Networks",
    "year": 2016,
    "url": "https://arxiv.org/abs/1605.07146",
}
_TWICE_AS_WIDE = {
    "stage_features": (256, 512, 1024, 2048),
    "block": functools.partial(Bottleneck, inner_ratio=0.5),
}

FAMILIES = (
    Family(
        **_PAPER,
        name="wide_resnet",
        module=ResNet,
        top1_source="ImageNet; torchvision's weights IMAGENET1K_V1",
        variants={
            "wide_resnet50_2": Variant(
                parameters=68_883_240,
                macs=11_398_021_120,
                fields={"stage_sizes": (3, 4, 6, 3), **_TWICE_AS_WIDE},
                top1=78.468,
                preprocessing_by_source={"timm": {"interpolation": "bicubic"}},
            ),
            "wide_resnet101_2": Variant(
                parameters=126_886_696,
                macs=22_753_050_624,
                fields={"stage_sizes": (3, 4, 23, 3), **_TWICE_AS_WIDE},
                top1=78.848,
            ),
        },
    ),
    Family(
        **_PAPER,
        name="wide_resnet_cifar",
        module=ResNetV2,
        top1_source="CIFAR-10; the paper's table 5",
        num_classes=10,
        input_shape=(32, 32, 3),
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
        variants={
            "wide_resnet28_10": Variant(
                parameters=36_479_194,
                macs=5_243_328_768,
                fields={
                    "stage_sizes": (4, 4, 4),
                    "stage_features": (160, 320, 640),
                    "block": PreactivationBasicBlock,
                    "stem_features": 16,
                    "small_images": True,
                },
                top1=96.0,
            ),
        },
    ),
)
