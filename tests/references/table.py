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
    # Pre-activation ResNet
    # SqueezeNet
    # Wide ResNet
    # ResNeXt
    # DenseNet
    "densenet121": _torchvision("densenet121", 2.834),
    "densenet161": _torchvision("densenet161", 7.728),
    "densenet169": _torchvision("densenet169", 3.36),
    "densenet201": _torchvision("densenet201", 4.291),
    # Xception
    # MobileNet v1
    # SE-ResNet
    # ShuffleNet v2
    # MobileNet v2
    # MnasNet
    # MobileNet v3
    # EfficientNet
    # EfficientNet v2
    # ConvNeXt
    "convnext_tiny": _torchvision("convnext_tiny", 4.456),
    "convnext_small": _torchvision("convnext_small", 8.684),
    "convnext_base": _torchvision("convnext_base", 15.355),
    "convnext_large": _torchvision("convnext_large", 34.361),
}
