"""ImageNet's 2012 challenge from its tar archives (Russakovsky et al. 2015).

The images stay the JPEG files they are (one is a PNG, 22 are CMYK), which
`cnn_jax.data.host.decode` reads. Class names and the labels of the validation images
come from the lists that TensorFlow Datasets is installed with.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cnn_jax.data.prepare.archives import ArchiveError, index_members, open_archive
from cnn_jax.data.prepare.recipe import (
    Bar,
    Recipe,
    Record,
    Shard,
    SourceFile,
    labelled_image_features,
)

_MOST_IMAGE = 100_000_000
_IMAGES_PER_SHARD = 1000

Member = tuple[str, int, int, str]
"""An image in an archive: name, offset, size and class, a WordNet number."""


@dataclasses.dataclass(frozen=True)
class ImageShard:
    """Some of the images of a split.

    Attributes:
      archive: The archive.
      members: The images, in the order of the records.
    """

    archive: pathlib.Path
    members: tuple[Member, ...]

    def records(self) -> Iterator[Record]:
        """Yields the images with their labels.

        Raises:
          ArchiveError: If an image is cut short or implausibly large.
        """
        contents = {}
        with open_archive(self.archive, "a tar archive of images") as file:
            # In the archive's order, so that a disk need not go back and forth.
            for name, offset, size, _ in sorted(self.members, key=lambda m: m[1]):
                if size > _MOST_IMAGE:
                    raise ArchiveError(
                        f"{self.archive}: got {size:,} bytes in {name!r}, expected no "
                        f"more than {_MOST_IMAGE:,}."
                    )
                file.seek(offset)
                contents[offset] = file.read(size)
                if len(contents[offset]) != size:
                    raise ArchiveError(f"{self.archive}: {name!r} is cut short.")
        for name, offset, _, label in self.members:
            file_name = pathlib.PurePosixPath(name).name
            yield {"image": contents[offset], "label": label, "file_name": file_name}


@functools.cache
def _list(name: str) -> tuple[str, ...]:
    import tensorflow_datasets as tfds

    path = pathlib.Path(tfds.__file__).parent / "datasets" / "imagenet2012" / name
    return tuple(path.read_text(encoding="utf-8").split())


def _features(directory: pathlib.Path) -> Any:
    import tensorflow_datasets as tfds

    names = _list("labels.txt")
    return labelled_image_features(
        (None, None, 3), names, "jpeg", file_name=tfds.features.Text()
    )


def _shards(directory: pathlib.Path, bar: Bar) -> Mapping[str, Sequence[Shard]]:
    train, validation = (directory / file.name for file in IMAGENET.files)
    found = {}
    if train.is_file():
        found["train"] = _in_shards(train, _training_members(train, bar))
    if validation.is_file():
        found["validation"] = _in_shards(validation, _validation_members(validation))
    return found


def _in_shards(archive: pathlib.Path, members: Sequence[Member]) -> list[ImageShard]:
    return [
        ImageShard(archive, tuple(members[start : start + _IMAGES_PER_SHARD]))
        for start in range(0, len(members), _IMAGES_PER_SHARD)
    ]


def _training_members(archive: pathlib.Path, bar: Bar) -> list[Member]:
    """Returns all images of the archive's archives, one per class, in mixed order."""
    classes = sorted(index_members(archive, suffix=".tar"))
    labels = [pathlib.PurePosixPath(name).stem for name, _, _ in classes]
    unknown = set(labels) - set(_list("labels.txt"))
    if unknown:
        raise ArchiveError(
            f"{archive}: got archives of unknown classes: {sorted(unknown)[:5]}."
        )
    advance = bar(f"Indexing {archive.name}", len(classes))
    members = []
    for label, (_, offset, size) in zip(labels, classes, strict=True):
        found = index_members(archive, suffix=".jpeg", offset=offset, size=size)
        members += [(*member, label) for member in found]
        advance(1)
    # A class after the other, `train[:10%]` would be a hundred classes. RandomState's
    # stream is frozen by NumPy's policy: the set comes out the same everywhere.
    order = np.random.RandomState(0).permutation(len(members))
    return [members[number] for number in order]


def _validation_members(archive: pathlib.Path) -> list[Member]:
    members = sorted(index_members(archive, suffix=".jpeg"))
    labels = _list("validation_labels.txt")
    if len(members) > len(labels):
        raise ArchiveError(
            f"{archive}: got {len(members)} images, expected no more than the "
            f"{len(labels)} that have a label."
        )
    return [(*member, labels[_number(archive, member[0]) - 1]) for member in members]


def _number(archive: pathlib.Path, name: str) -> int:
    """Returns the number in `ILSVRC2012_val_00000001.JPEG`, which orders the labels."""
    digits = pathlib.PurePosixPath(name).stem.rpartition("_")[2]
    # What else Python takes for digits, or a million of them, is no number here.
    is_number = re.fullmatch("[0-9]{1,8}", digits) is not None
    if not is_number or not 1 <= int(digits) <= len(_list("validation_labels.txt")):
        raise ArchiveError(
            f"{archive}: got {name!r}, expected names such as "
            "ILSVRC2012_val_00000001.JPEG."
        )
    return int(digits)


IMAGENET = Recipe(
    name="imagenet2012",
    version="5.1.0",
    files=(
        SourceFile(
            "ILSVRC2012_img_train.tar",
            "b08200a27a8e34218a0e58fde36b0fe8f73bc377f4acea2d91602057c3ca45bb",
            required=False,
        ),
        SourceFile(
            "ILSVRC2012_img_val.tar",
            "c7e06a6c0baccf06d8dbeb6577d71efff84673a5dbdd50633ab44f8ea0456ae0",
            required=False,
        ),
    ),
    features=_features,
    shards=_shards,
)
