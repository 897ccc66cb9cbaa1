"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017) from idx files."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cnn_jax.data.prepare.archives import ArchiveError, read_idx
from cnn_jax.data.prepare.recipe import (
    Bar,
    Recipe,
    Record,
    Shard,
    SourceFile,
    encode_png,
    labelled_image_features,
)

_NUM_CLASSES = 10
_MOST_BYTES = 60_000 * 28 * 28


@dataclasses.dataclass(frozen=True)
class IdxShard:
    """A split: a file of images and a file of labels.

    Attributes:
      images: The gzipped idx file of the images.
      labels: That of the labels.
    """

    images: pathlib.Path
    labels: pathlib.Path

    def records(self) -> Iterator[Record]:
        """Yields the images, PNG-encoded, with their labels.

        Raises:
          ArchiveError: If a file is damaged or empty, the two do not fit each other, or
            a label is out of range.
        """
        images = read_idx(self.images, rank=3, most=_MOST_BYTES)
        labels = read_idx(self.labels, rank=1, most=_MOST_BYTES)
        if images.shape[1:] != (28, 28) or len(images) != len(labels):
            raise ArchiveError(
                f"{self.images}: got images of shape {images.shape} for {len(labels)} "
                "labels, expected 28 x 28 pixels and one label each."
            )
        if len(images) == 0:
            raise ArchiveError(f"{self.images}: got no image, expected at least one.")
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            if label >= _NUM_CLASSES:
                raise ArchiveError(
                    f"{self.labels}: got the label {label} in record {number}, "
                    f"expected 0 to {_NUM_CLASSES - 1}."
                )
            yield {"image": encode_png(image), "label": int(label)}


def _recipe(name: str, class_names: Sequence[str], **checksums: str) -> Recipe:
    files = {
        "train_images": "train-images-idx3-ubyte.gz",
        "train_labels": "train-labels-idx1-ubyte.gz",
        "test_images": "t10k-images-idx3-ubyte.gz",
        "test_labels": "t10k-labels-idx1-ubyte.gz",
    }

    def features(directory: pathlib.Path) -> Any:
        return labelled_image_features((28, 28, 1), class_names, "png")

    def shards(directory: pathlib.Path, bar: Bar) -> Mapping[str, Sequence[Shard]]:
        return {
            split: [
                IdxShard(
                    directory / files[f"{split}_images"],
                    directory / files[f"{split}_labels"],
                )
            ]
            for split in ("train", "test")
        }

    return Recipe(
        name=name,
        version="3.0.1",
        files=tuple(SourceFile(files[key], checksums[key]) for key in files),
        features=features,
        shards=shards,
    )


MNIST = _recipe(
    "mnist",
    [str(digit) for digit in range(_NUM_CLASSES)],
    train_images="440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    train_labels="3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    test_images="8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    test_labels="f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
)

FASHION_MNIST = _recipe(
    "fashion_mnist",
    [
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ],
    train_images="3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    train_labels="a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    test_images="346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    test_labels="67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
)
