"""ResNeXt (Xie, Girshick, Dollár, Tu and He 2016).

Inception's parallel branches pay, but each has to be designed by hand. Take instead
many branches of one shape, each a thin bottleneck, and add them all to the shortcut;
how many there are, the "cardinality", is a third dimension beside depth and width. A
grouped 3x3 convolution computes exactly that, and at equal cost more branches do better
than a deeper or a wider network.

It came second at ImageNet 2016 and made grouped convolutions, born in AlexNet to fit
two small GPUs, a means of design.

It is ResNet with bottlenecks whose inner convolution has groups: `32x4d` are 32 groups
of 4 channels in the first stage, twice as many channels a group in each next one. Top-1
is torchvision's, of its weights IMAGENET1K_V1, whose recipe for 101_64x4d is a newer
and longer one.

    model              parameters     MACs/M   top-1/%
    resnext50_32x4d    25,028,904    4,230.5     77.62
    resnext101_32x8d   88,791,336   16,414.0     79.31
    resnext101_64x4d   83,455,272   15,460.3     83.25

Conventions are those of `resnet`. Any image of at least 32x32 is accepted.
"""

import functools

from cnn_jax.layers import Bottleneck
from cnn_jax.models.registry import Family, Variant
from cnn_jax.models.resnet import ResNet


def _fields(stage_sizes, *, groups, inner_ratio):
    return {
        "stage_sizes": stage_sizes,
        "stage_features": (256, 512, 1024, 2048),
        "block": functools.partial(Bottleneck, groups=groups, inner_ratio=inner_ratio),
    }


FAMILIES = (
    Family(
        name="resnext",
        module=ResNet,
        paper="Xie et al., Aggregated Residual Transformations for Deep Neural "
        "Networks",
        year=2016,
        url="https://arxiv.org/abs/1611.05431",
        top1_source="ImageNet; torchvision's weights IMAGENET1K_V1",
        variants={
            "resnext50_32x4d": Variant(
                parameters=25_028_904,
                macs=4_230_479_872,
                fields=_fields((3, 4, 6, 3), groups=32, inner_ratio=0.5),
                top1=77.618,
                preprocessing_by_source={
                    "timm": {"crop_fraction": 0.95, "interpolation": "bicubic"}
                },
            ),
            "resnext101_32x8d": Variant(
                parameters=88_791_336,
                macs=16_414_015_488,
                fields=_fields((3, 4, 23, 3), groups=32, inner_ratio=1.0),
                top1=79.312,
            ),
            "resnext101_64x4d": Variant(
                parameters=83_455_272,
                macs=15_460_270_080,
                fields=_fields((3, 4, 23, 3), groups=64, inner_ratio=1.0),
                top1=83.246,
                preprocessing={"crop_fraction": 224 / 232},
                preprocessing_by_source={
                    "timm": {"crop_fraction": 0.95, "interpolation": "bicubic"}
                },
            ),
        },
    ),
)
