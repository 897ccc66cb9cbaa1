"""ImageNet's 2012 challenge from its tar archives (Russakovsky et al. 2015).

The images stay the JPEG files they are (one is a PNG, 22 are CMYK), which
`cnn_jax.data.host.decode` reads. Class names and the labels of the validation images
come from the lists that TensorFlow Datasets is installed with.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cnn_jax.data.prepare.archives import ArchiveError, index_members
from cnn_jax.data.prepare.recipe import (
    Recipe,
    Record,
    Shard,
    SourceFile,
    labelled_image_features,
)

_MOST_IMAGE = 100_000_000
_VALIDATION_SHARD = 1000


@dataclasses.dataclass(frozen=True)
class ClassShard:
    """A class of the training split: an archive within the archive.

    Attributes:
      archive: The outer archive.
      label: The class, a WordNet number such as `"n01440764"`.
      offset: Where the inner archive begins.
      size: How many bytes it has.
    """

    archive: pathlib.Path
    label: str
    offset: int
    size: int

    def records(self) -> Iterator[Record]:
        """Yields the class's images."""
        members = index_members(
            self.archive, suffix=".jpeg", offset=self.offset, size=self.size
        )
        yield from _records(self.archive, [(*m, self.label) for m in members])


@dataclasses.dataclass(frozen=True)
class ValidationShard:
    """Some of the validation images.

    Attributes:
      archive: The archive.
      members: `(name, offset, size, label)` of each.
    """

    archive: pathlib.Path
    members: tuple[tuple[str, int, int, str], ...]

    def records(self) -> Iterator[Record]:
        """Yields the images with their labels."""
        yield from _records(self.archive, self.members)


def _records(
    archive: pathlib.Path, members: Sequence[tuple[str, int, int, str]]
) -> Iterator[Record]:
    with open(archive, "rb") as file:
        for name, offset, size, label in members:
            if size > _MOST_IMAGE:
                raise ArchiveError(
                    f"{archive}: got {size:,} bytes in {name}, expected no more than "
                    f"{_MOST_IMAGE:,}."
                )
            file.seek(offset)
            content = file.read(size)
            if len(content) != size:
                raise ArchiveError(f"{archive}: {name} is cut short.")
            file_name = pathlib.PurePosixPath(name).name
            yield {"image": content, "label": label, "file_name": file_name}


def _list(name: str) -> list[str]:
    import tensorflow_datasets as tfds

    path = pathlib.Path(tfds.__file__).parent / "datasets" / "imagenet2012" / name
    return path.read_text(encoding="utf-8").split()


def _features(directory: pathlib.Path) -> Any:
    import tensorflow_datasets as tfds

    names = _list("labels.txt")
    return labelled_image_features(
        (None, None, 3), names, "jpeg", file_name=tfds.features.Text()
    )


def _shards(directory: pathlib.Path) -> Mapping[str, Sequence[Shard]]:
    found = {}
    train, validation = (directory / file.name for file in IMAGENET.files)
    if train.exists():
        inner = index_members(train, suffix=".tar")
        found["train"] = [
            ClassShard(train, pathlib.PurePosixPath(name).stem, offset, size)
            for name, offset, size in sorted(inner)
        ]
        unknown = {shard.label for shard in found["train"]} - set(_list("labels.txt"))
        if unknown:
            raise ArchiveError(
                f"{train}: got archives of unknown classes: {sorted(unknown)[:5]}."
            )
    if validation.exists():
        members = sorted(index_members(validation, suffix=".jpeg"))
        labels = _list("validation_labels.txt")
        if len(members) > len(labels):
            raise ArchiveError(
                f"{validation}: got {len(members)} images, expected no more than the "
                f"{len(labels)} that have a label."
            )
        rows = [
            (*member, labels[_number(validation, member[0]) - 1]) for member in members
        ]
        found["validation"] = [
            ValidationShard(validation, tuple(rows[start : start + _VALIDATION_SHARD]))
            for start in range(0, len(rows), _VALIDATION_SHARD)
        ]
    return found


def _number(archive: pathlib.Path, name: str) -> int:
    """The number in `ILSVRC2012_val_00000001.JPEG`, which the labels go by."""
    digits = pathlib.PurePosixPath(name).stem.rpartition("_")[2]
    if not digits.isdigit() or not 1 <= int(digits) <= len(
        _list("validation_labels.txt")
    ):
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
