"""The reference implementation of each model."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Reference:
    """One model's counterpart.

    Attributes:
      library: `"torchvision"`, `"timm"`, `"keras"`, or `"written"` for the networks
        that none of these has: they are written out in `references.written`.
      name: Its name there.
      arguments: What it is made with beside the number of classes.
      size: Height and width of the images that it is compared on: small, for speed.
      gain: The filters' gain (see `references.weights`), chosen so that activations
        neither vanish, and the image with them, nor explode on their way.
      published_macs: The multiply-adds that the paper or the library states, in
        millions, or None.
      macs_source: Where it does.
    """

    library: str
    name: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    size: int = 64
    gain: float = 1.0
    published_macs: float | None = None
    macs_source: str = ""


def _torchvision(name, gigamacs, **fields):
    """`gigamacs` is `_ops` in the meta data of torchvision's weights."""
    return Reference(
        "torchvision",
        name,
        published_macs=1e3 * gigamacs,
        macs_source="torchvision",
        **fields,
    )


def _timm(name, **fields):
    return Reference("timm", name, **fields)


TIMMS_NAMES = {
    "vgg11": _timm("vgg11", gain=2.0),
    "resnet18": _timm("resnet18", gain=0.7),
    "resnext50_32x4d": _timm("resnext50_32x4d", gain=0.7),
    "wide_resnet50_2": _timm("wide_resnet50_2", gain=0.7),
    "densenet121": _timm("densenet121"),
    "inception_v3": _timm("inception_v3", size=299, gain=1.6),
    "mobilenet_v2": _timm("mobilenetv2_100", gain=1.5),
    "mnasnet1_0": _timm("mnasnet_100", gain=1.4),
    "efficientnet_b0": _timm("efficientnet_b0", gain=2.05),
    "convnext_tiny": _timm("convnext_tiny"),
}
"""Of the models below that torchvision and timm both have, one for each way in which
timm names its layers."""

REFERENCES = {
    # LeNet
    "lenet5": Reference("written", "lenet5", size=40),
    # AlexNet, ZFNet, NiN
    "alexnet": _torchvision("alexnet", 0.714, size=96, gain=2.0),
    "zfnet": Reference("written", "zfnet", size=96, gain=2.0),
    "nin": Reference("written", "nin", size=80, gain=2.0),
    "nin_cifar": Reference("written", "nin_cifar", size=32, gain=2.0),
    # VGG
    "vgg11": _torchvision("vgg11", 7.609, gain=2.0),
    "vgg11_bn": _torchvision("vgg11_bn", 7.609, gain=1.4),
    "vgg13": _torchvision("vgg13", 11.308, gain=2.0),
    "vgg13_bn": _torchvision("vgg13_bn", 11.308, gain=1.4),
    "vgg16": _torchvision("vgg16", 15.47, gain=2.0),
    "vgg16_bn": _torchvision("vgg16_bn", 15.47, gain=1.4),
    "vgg19": _torchvision("vgg19", 19.632, gain=2.0),
    "vgg19_bn": _torchvision("vgg19_bn", 19.632, gain=1.4),
    "vgg8_cifar": Reference("written", "vgg8_cifar", size=20),
    # GoogLeNet and Inception
    "googlenet": _torchvision("googlenet", 1.498, size=96, gain=1.3),
    # The auxiliary head of the reference runs on no smaller images.
    "inception_v3": _torchvision("inception_v3", 5.713, size=299, gain=1.6),
    # ResNet
    "resnet18": _torchvision("resnet18", 1.814, gain=0.7),
    "resnet34": _torchvision("resnet34", 3.664, gain=0.5),
    "resnet50": _torchvision("resnet50", 4.089, gain=0.7),
    "resnet101": _torchvision("resnet101", 7.801, gain=0.5),
    "resnet152": _torchvision("resnet152", 11.514, gain=0.5),
    # ResNet for CIFAR
    **{
        f"{kind}{depth}": Reference(
            "written",
            "CifarResNet",
            {"depth": depth, "residual": kind == "resnet"},
            size=32,
            gain=gain if kind == "resnet" else 1.95,
        )
        for kind in ("resnet", "plain")
        for depth, gain in ((20, 0.7), (32, 0.7), (44, 0.5), (56, 0.5), (110, 0.3))
    },
    # Pre-activation ResNet
    "resnetv2_18": _timm("resnetv2_18"),
    "resnetv2_34": _timm("resnetv2_34", gain=0.7),
    "resnetv2_50": _timm("resnetv2_50", gain=0.7),
    "resnetv2_101": _timm("resnetv2_101", gain=0.5),
    "resnetv2_152": _timm("resnetv2_152", gain=0.4),
    # SqueezeNet
    "squeezenet1_0": _torchvision("squeezenet1_0", 0.819, size=70, gain=2.0),
    "squeezenet1_1": _torchvision("squeezenet1_1", 0.349, size=70, gain=2.0),
    # Wide ResNet
    "wide_resnet50_2": _torchvision("wide_resnet50_2", 11.398, gain=0.7),
    "wide_resnet101_2": _torchvision("wide_resnet101_2", 22.753, gain=0.5),
    "wide_resnet28_10": Reference("written", "WideResNet", size=32),
    # ResNeXt
    "resnext50_32x4d": _torchvision("resnext50_32x4d", 4.23, gain=0.7),
    "resnext101_32x8d": _torchvision("resnext101_32x8d", 16.414, gain=0.5),
    "resnext101_64x4d": _torchvision("resnext101_64x4d", 15.46, gain=0.5),
    # DenseNet
    "densenet121": _torchvision("densenet121", 2.834),
    "densenet161": _torchvision("densenet161", 7.728),
    "densenet169": _torchvision("densenet169", 3.36),
    "densenet201": _torchvision("densenet201", 4.291),
    # Xception
    "xception": Reference(
        "keras",
        "Xception",
        size=83,
        published_macs=8357.4,
        macs_source="timm's legacy_xception, counted by PyTorch",
    ),
    # MobileNet v1
    **{
        name: Reference(
            "keras",
            "MobileNet",
            {"alpha": alpha},
            gain=2.5,
            published_macs=macs,
            macs_source="the paper's table 6",
        )
        for name, alpha, macs in (
            ("mobilenet_v1", 1.0, 569),
            ("mobilenet_v1_0_75", 0.75, 325),
            ("mobilenet_v1_0_5", 0.5, 149),
            ("mobilenet_v1_0_25", 0.25, 41),
        )
    },
    # SE-ResNet
    "seresnet50": _timm("seresnet50", published_macs=4130, macs_source="mmpretrain"),
    "seresnet101": _timm("seresnet101", published_macs=7860, macs_source="mmpretrain"),
    "seresnet152": _timm("seresnet152", gain=0.8),
    # ShuffleNet v2
    # 40.5 million, published as 0.04e9 (torchvision) and 41 million (the paper).
    "shufflenet_v2_x0_5": Reference("torchvision", "shufflenet_v2_x0_5", gain=1.4),
    "shufflenet_v2_x1_0": _torchvision("shufflenet_v2_x1_0", 0.145, gain=1.4),
    "shufflenet_v2_x1_5": _torchvision("shufflenet_v2_x1_5", 0.296, gain=1.4),
    "shufflenet_v2_x2_0": _torchvision("shufflenet_v2_x2_0", 0.583, gain=1.4),
    # MobileNet v2
    "mobilenet_v2": _torchvision("mobilenet_v2", 0.301, gain=1.5),
    # MnasNet
    "mnasnet0_5": _torchvision("mnasnet0_5", 0.104, gain=1.4),
    "mnasnet0_75": _torchvision("mnasnet0_75", 0.215, gain=1.4),
    "mnasnet1_0": _torchvision("mnasnet1_0", 0.314, gain=1.4),
    "mnasnet1_3": _torchvision("mnasnet1_3", 0.526, gain=1.4),
    # MobileNet v3
    "mobilenet_v3_large": _torchvision("mobilenet_v3_large", 0.217, gain=1.4),
    "mobilenet_v3_small": _torchvision("mobilenet_v3_small", 0.057, gain=1.8),
    # EfficientNet
    "efficientnet_b0": _torchvision("efficientnet_b0", 0.386, gain=2.05),
    "efficientnet_b1": _torchvision("efficientnet_b1", 0.687, gain=1.85),
    "efficientnet_b2": _torchvision("efficientnet_b2", 1.088, gain=1.8),
    "efficientnet_b3": _torchvision("efficientnet_b3", 1.827, gain=1.75),
    "efficientnet_b4": _torchvision("efficientnet_b4", 4.394, gain=1.7),
    "efficientnet_b5": _torchvision("efficientnet_b5", 10.266, gain=1.6),
    "efficientnet_b6": _torchvision("efficientnet_b6", 19.068, gain=1.55),
    "efficientnet_b7": _torchvision("efficientnet_b7", 37.746, gain=1.5),
    "efficientnet_cifar": Reference("written", "efficientnet_cifar", size=32, gain=1.8),
    # EfficientNet-Lite
    "efficientnet_lite0": _timm("tf_efficientnet_lite0", gain=1.5),
    "efficientnet_lite1": _timm("tf_efficientnet_lite1", gain=1.5),
    "efficientnet_lite2": _timm("tf_efficientnet_lite2", gain=1.5),
    "efficientnet_lite3": _timm("tf_efficientnet_lite3", gain=1.5),
    "efficientnet_lite4": _timm("tf_efficientnet_lite4", gain=1.5),
    # EfficientNet v2
    "efficientnet_v2_s": _torchvision("efficientnet_v2_s", 8.366, gain=1.1),
    "efficientnet_v2_m": _torchvision("efficientnet_v2_m", 24.582, gain=1.1),
    "efficientnet_v2_l": _torchvision("efficientnet_v2_l", 56.08),
    # ConvNeXt
    "convnext_tiny": _torchvision("convnext_tiny", 4.456),
    "convnext_small": _torchvision("convnext_small", 8.684),
    "convnext_base": _torchvision("convnext_base", 15.355),
    "convnext_large": _torchvision("convnext_large", 34.361),
}
