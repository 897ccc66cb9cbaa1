"""CIFAR-10 and CIFAR-100 from their binary archives (Krizhevsky 2009)."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cnn_jax.data.prepare.archives import ArchiveError, read_member
from cnn_jax.data.prepare.recipe import (
    Bar,
    Recipe,
    Record,
    Shard,
    SourceFile,
    encode_png,
    labelled_image_features,
)

_PIXELS = 3 * 32 * 32
_MOST_BYTES = 200_000_000  # each of the two archives holds 185 million


@dataclasses.dataclass(frozen=True)
class CifarShard:
    """One `.bin` file: labels and pixels, record after record.

    Attributes:
      archive: The tar archive that holds it.
      name: The file's name.
      label_names: What the bytes before the pixels are, the last being `"label"`.
      num_classes: Of each of them.
    """

    archive: pathlib.Path
    name: str
    label_names: tuple[str, ...]
    num_classes: tuple[int, ...]

    def records(self) -> Iterator[Record]:
        """Yields the images, PNG-encoded, with their labels.

        Raises:
          ArchiveError: If the file has an incomplete record or a label out of range.
        """
        content = read_member(self.archive, self.name, most=_MOST_BYTES)
        length = len(self.label_names) + _PIXELS
        if not content or len(content) % length:
            raise ArchiveError(
                f"{self.archive}, {self.name}: got {len(content)} bytes, expected a "
                f"multiple of {length}, the size of a record."
            )
        rows = np.frombuffer(content, np.uint8).reshape(-1, length)
        for number, row in enumerate(rows):
            labels = row[: len(self.label_names)]
            for label, most in zip(labels, self.num_classes, strict=True):
                if label >= most:
                    raise ArchiveError(
                        f"{self.archive}, {self.name}: got the label {label} in record "
                        f"{number}, expected 0 to {most - 1}."
                    )
            planes = row[len(self.label_names) :].reshape(3, 32, 32)
            yield {
                "image": encode_png(np.ascontiguousarray(planes.transpose(1, 2, 0))),
                **dict(zip(self.label_names, map(int, labels), strict=True)),
            }


def _class_names(archive: pathlib.Path, name: str, expected: int) -> list[str]:
    content = read_member(archive, name, most=_MOST_BYTES)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ArchiveError(
            f"{archive}, {name}: got bytes that are not UTF-8, expected one class name "
            "a line."
        ) from error
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if len(set(names)) != expected or len(names) != expected:
        raise ArchiveError(
            f"{archive}, {name}: got {len(names)} class names, {len(set(names))} of "
            f"them different, expected {expected}."
        )
    return names


def _features_10(directory: pathlib.Path) -> Any:
    archive = directory / CIFAR10.files[0].name
    names = _class_names(archive, "batches.meta.txt", 10)
    return labelled_image_features((32, 32, 3), names, "png")


def _features_100(directory: pathlib.Path) -> Any:
    import tensorflow_datasets as tfds

    archive = directory / CIFAR100.files[0].name
    names = _class_names(archive, "fine_label_names.txt", 100)
    coarse = _class_names(archive, "coarse_label_names.txt", 20)
    return labelled_image_features(
        (32, 32, 3), names, "png", coarse_label=tfds.features.ClassLabel(names=coarse)
    )


def _shards_10(directory: pathlib.Path, bar: Bar) -> Mapping[str, Sequence[Shard]]:
    make = functools.partial(
        CifarShard,
        directory / CIFAR10.files[0].name,
        label_names=("label",),
        num_classes=(10,),
    )
    train = [make(f"data_batch_{number}.bin") for number in range(1, 6)]
    return {"train": train, "test": [make("test_batch.bin")]}


def _shards_100(directory: pathlib.Path, bar: Bar) -> Mapping[str, Sequence[Shard]]:
    make = functools.partial(
        CifarShard,
        directory / CIFAR100.files[0].name,
        label_names=("coarse_label", "label"),
        num_classes=(20, 100),
    )
    return {"train": [make("train.bin")], "test": [make("test.bin")]}


CIFAR10 = Recipe(
    name="cifar10",
    version="3.0.2",
    files=(
        SourceFile(
            "cifar-10-binary.tar.gz",
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    ),
    features=_features_10,
    shards=_shards_10,
)

CIFAR100 = Recipe(
    name="cifar100",
    version="3.0.2",
    files=(
        SourceFile(
            "cifar-100-binary.tar.gz",
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ),
    ),
    features=_features_100,
    shards=_shards_100,
)
