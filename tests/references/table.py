"""Which implementation each model is held against."""

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
        neither vanish nor explode on their way through the network.
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


REFERENCES = {
    # LeNet
    # AlexNet, ZFNet, NiN
    # VGG
    # GoogLeNet and Inception
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
            gain=gain if kind == "resnet" else 1.4,
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
    # Wide ResNet
    "wide_resnet50_2": _torchvision("wide_resnet50_2", 11.398, gain=0.7),
    "wide_resnet101_2": _torchvision("wide_resnet101_2", 22.753, gain=0.5),
    "wide_resnet28_10": Reference("written", "WideResNet", size=32),
    # ResNeXt
    "resnext50_32x4d": _torchvision("resnext50_32x4d", 4.23, gain=0.7),
    "resnext101_32x8d": _torchvision("resnext101_32x8d", 16.414, gain=0.5),
    "resnext101_64x4d": _torchvision("resnext101_64x4d", 15.46, gain=0.5),
    # DenseNet
    # Xception
    # MobileNet v1
    # SE-ResNet
    "seresnet50": _timm("seresnet50", published_macs=4130, macs_source="mmpretrain"),
    "seresnet101": _timm("seresnet101", published_macs=7860, macs_source="mmpretrain"),
    "seresnet152": _timm("seresnet152", gain=0.8),
    # ShuffleNet v2
    # MobileNet v2
    # MnasNet
    # MobileNet v3
    # EfficientNet
    # EfficientNet v2
    # ConvNeXt
}
