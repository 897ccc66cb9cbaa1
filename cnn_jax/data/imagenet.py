"""ImageNet's 1,000 classes, for which most published weights are."""

from __future__ import annotations

import functools
import importlib.resources

_FILE = "imagenet_classes.tsv"


def imagenet_class_names() -> tuple[str, ...]:
    """Returns a name for each class, such as `"tench"`, in the order of the labels."""
    return _columns()[1]


def imagenet_wordnet_ids() -> tuple[str, ...]:
    """Returns each class's WordNet id, such as `"n01440764"`, likewise."""
    return _columns()[0]


@functools.cache
def _columns() -> tuple[tuple[str, ...], tuple[str, ...]]:
    file = importlib.resources.files("cnn_jax.data").joinpath(_FILE)
    lines = file.read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    ids, names = zip(*rows, strict=True)
    return ids, names
