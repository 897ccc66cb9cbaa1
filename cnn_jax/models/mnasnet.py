"""MnasNet (Tan et al. 2018).

Multiply-adds say little about the time that a phone needs, so measure that time, and
let a search trade it against accuracy. The search space is a chain of stages, each of
which has its own block, filter size, width and depth, because what suits the first
layers does not suit the last. What it found is made of MobileNetV2's inverted
bottlenecks, with larger filters and less expansion where the phone allows it.

It made the search for architectures aware of hardware; its search space gave MobileNet
v3 and EfficientNet-B0. This is the variant B1, without channel gates, in four widths:
`MobileNetV2` with other numbers.

    model          parameters     MACs/M   top-1/%
    mnasnet0_5      2,218,512      104.5     67.73
    mnasnet0_75     3,170,208      215.5     71.18
    mnasnet1_0      4,383,312      314.4     73.46
    mnasnet1_3      6,282,256      526.4     76.51

Top-1 is torchvision's, of its weights IMAGENET1K_V1. Activations are plain rectifiers,
and batch normalisation keeps 0.9997 of the old statistics, as the paper has it; the
rest is as in `mobilenet_v2`. Any image of at least 32x32 is accepted.
"""

from __future__ import annotations

import functools
from typing import Any

from cnn_jax import kernels as K
from cnn_jax.layers import BatchNorm
from cnn_jax.models.mobilenet_v2 import MobileNetV2, Stage
from cnn_jax.models.registry import Family, Variant


def scale_width(features: int, factor: float) -> int:
    """Returns the multiple of 8 nearest to `features * factor`, or the next above.

    The next above where the nearest is more than a tenth below.
    """
    exact = features * factor
    nearest = max(8, int(exact + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * exact else nearest + 8


def _fields(factor: float) -> dict[str, Any]:
    """Returns the fields of the network of that width; the last layer keeps its own."""
    width = functools.partial(scale_width, factor=factor)
    return {
        "stem_features": width(32),
        "stages": (
            Stage(width(16), 1, expansion=1),
            Stage(width(24), 3, expansion=3, strides=2),
            Stage(width(40), 3, expansion=3, kernel_size=5, strides=2),
            Stage(width(80), 3, expansion=6, kernel_size=5, strides=2),
            Stage(width(96), 2, expansion=6),
            Stage(width(192), 4, expansion=6, kernel_size=5, strides=2),
            Stage(width(320), 1, expansion=6),
        ),
        "norm": functools.partial(
            BatchNorm, momentum=0.9997, unbiased_running_var=True
        ),
        "activation": K.relu,
    }


FAMILIES = (
    Family(
        name="mnasnet",
        module=MobileNetV2,
        paper=(
            "Tan et al., MnasNet: Platform-Aware Neural Architecture Search for Mobile"
        ),
        year=2018,
        url="https://arxiv.org/abs/1807.11626",
        top1_source="ImageNet; torchvision's weights IMAGENET1K_V1",
        preprocessing_by_source={
            "timm": {"crop_fraction": 0.875, "interpolation": "bicubic"}
        },
        variants={
            "mnasnet0_5": Variant(
                parameters=2_218_512, macs=104_455_968, fields=_fields(0.5), top1=67.734
            ),
            "mnasnet0_75": Variant(
                parameters=3_170_208,
                macs=215_493_104,
                fields=_fields(0.75),
                top1=71.180,
                preprocessing={"crop_fraction": 224 / 232},
            ),
            "mnasnet1_0": Variant(
                parameters=4_383_312, macs=314_415_872, fields=_fields(1.0), top1=73.456
            ),
            "mnasnet1_3": Variant(
                parameters=6_282_256,
                macs=526_362_432,
                fields=_fields(1.3),
                top1=76.506,
                preprocessing={"crop_fraction": 224 / 232},
            ),
        },
    ),
)
