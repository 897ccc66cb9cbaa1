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
    # Xception
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
    # EfficientNet
    # EfficientNet v2
    # ConvNeXt
}
