"""Recipes: the metadata needed to prepare a dataset."""

from __future__ import annotations

import dataclasses
import io
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

Record = dict[str, Any]
"""`{"image": encoded bytes, "label": int or class name, ...}`."""


Bar = Callable[[str, int], Callable[[int], None]]
"""From a description and a total to what moves the bar."""


class Shard(Protocol):
    """A part of a split that one process reads and writes; can be pickled."""

    def records(self) -> Iterator[Record]:
        """Yields the records, in a fixed order."""


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file that the preparation starts from.

    Attributes:
      name: What its publishers call it.
      sha256: As published with TensorFlow Datasets.
      required: Whether the preparation can do without.
    """

    name: str
    sha256: str
    required: bool = True


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The steps that make a dataset from its publishers' files.

    Attributes:
      name: As TFDS calls the set.
      version: As TFDS numbers what holds the same images and labels.
      files: What it is made from.
      features: From the directory of the files to the TFDS features.
      shards: From the directory of the files to the shards of each split; a bar is for
        what takes long.
    """

    name: str
    version: str
    files: tuple[SourceFile, ...]
    features: Callable[[pathlib.Path], Any]
    shards: Callable[[pathlib.Path, Bar], Mapping[str, Sequence[Shard]]]


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes `(height, width)` or `(height, width, 3)` bytes without loss."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def labelled_image_features(
    shape: tuple[int | None, ...], names: Sequence[str], encoding: str, **more: Any
) -> Any:
    """Returns TFDS features of an `image` and its `label`, and what else there is."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape, encoding_format=encoding),
            "label": tfds.features.ClassLabel(names=list(names)),
            **more,
        }
    )
