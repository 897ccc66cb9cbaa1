"""Batches out of an iterable of the caller's own, such as a Grain dataset.

The iterable decides what an epoch holds and in which order: one pass over it is one
epoch. It is read once before training, to count its batches and to fingerprint them, so
that a resumed run finds out whether it would see others.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from cnn_jax.data.reading import BadImage, LabelError

Batch = dict[str, np.ndarray]


class Batches:
    """Labelled images in batches, as an iterable yields them.

    Each element is a pair `(images, labels)` or a mapping with `"image"` and `"label"`:
    images uint8 or floating-point `(n, height, width, channels)`, integer labels
    `(n,)`. All but the last of a pass have equally many examples; in training a smaller
    last one is left out. uint8 images are normalised as other sources' are;
    floating-point ones go to the model as they are, in float32.

    Args:
      batches: A finite iterable that can be read again and again, alike each time: a
        list, a Grain `MapDataset` or `IterDataset`, an object with `__iter__`.
      split: Which part of the data it is.
      class_names: One name per class.
      name: Which dataset it is; None for the qualified name of its class.

    Attributes:
      name: Which dataset it is.
      split: Which part of it.
      class_names: One name per class.
      batch_size: Examples of a full batch.
      image_shape: `(height, width, channels)`.
      dtype: uint8 or float32.
      fingerprint: A sha256 over class names and all batches, in order.

    Raises:
      ValueError: If it can be read only once, is empty, or its elements are not as
        described.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        *,
        split: str,
        class_names: tuple[str, ...],
        name: str | None = None,
    ):
        kind = type(batches)
        self.name: str = name or f"{kind.__module__}.{kind.__qualname__}"
        self.split: str = split
        self.class_names: tuple[str, ...] = tuple(class_names)
        self._batches = batches
        self._where = f"{split}: {self.name}"
        if iter(batches) is batches:
            raise ValueError(
                f"{self._where}: got an iterator, which can be read only once; "
                "expected an iterable that starts anew, such as a list, a Grain "
                "dataset, or an object whose __iter__ makes the iterator."
            )
        image = first_image(batches, split)
        self.image_shape: tuple[int, int, int] = image.shape
        self.dtype: np.dtype[Any] = image.dtype
        self.batch_size: int = 0
        self._repeats = 1
        self._sizes: list[int] = []
        total = hashlib.sha256(repr(self.class_names).encode())
        for batch in self._read(0):
            size = len(batch["label"])
            self.batch_size = self.batch_size or size
            if (self._sizes and self._sizes[-1] != self.batch_size) or (
                size > self.batch_size
            ):
                raise ValueError(
                    f"{self._where}: got a batch of {self._sizes[-1]} before one of "
                    f"{size}, expected {self.batch_size} in all but the last."
                )
            self._sizes.append(size)
            for array in batch.values():
                total.update(repr((array.shape, str(array.dtype))).encode())
                total.update(np.ascontiguousarray(array).data)
        self.fingerprint: str = total.hexdigest()

    def __len__(self) -> int:
        """Returns the number of examples of a pass."""
        return sum(self._sizes)

    def with_channels(self, channels: int) -> Batches:
        """Returns the batches with their grey images repeated to so many channels.

        Raises:
          ValueError: If the images are not grey.
        """
        if self.image_shape[2] != 1:
            raise ValueError(
                f"channels: got {channels} for images of {self.image_shape[2]}, "
                "expected grey images, whose channel can be repeated."
            )
        repeated = copy.copy(self)
        repeated._repeats = channels
        repeated.image_shape = (*self.image_shape[:2], channels)
        text = f"{self.fingerprint} {channels}"
        repeated.fingerprint = hashlib.sha256(text.encode()).hexdigest()
        return repeated

    def training(self, process_index: int, process_count: int) -> TrainingBatches:
        """Returns this process's blocks of the full batches, pass after pass.

        Raises:
          ValueError: If the processes do not divide a batch.
        """
        if self.batch_size % process_count:
            raise ValueError(
                f"{self._where}: got batches of {self.batch_size}, expected a multiple "
                f"of the {process_count} processes."
            )
        return TrainingBatches(self, slice(process_index, None, process_count))

    def evaluation(
        self, batch_size: int, process_index: int, process_count: int
    ) -> EvaluationBatches:
        """Returns this process's blocks of one pass, padded to a batch size and masked.

        Raises:
          ValueError: If the batches are larger.
        """
        if self.batch_size > batch_size:
            raise ValueError(
                f"{self._where}: got batches of {self.batch_size}, expected at most "
                f"{batch_size}, those of training."
            )
        block = slice(process_index, None, process_count)
        return EvaluationBatches(self, batch_size, block)

    @property
    def num_full(self) -> int:
        """The number of full batches of a pass."""
        return sum(size == self.batch_size for size in self._sizes)

    def read(self, start: int) -> Iterator[Batch]:
        """Reads a pass from a batch on, and checks that it is as the first one was.

        Raises:
          ValueError: If there are fewer batches, or other sizes.
        """
        number = start
        for batch in self._read(start):
            if number >= len(self._sizes) or len(batch["label"]) != self._sizes[number]:
                break
            yield batch
            number += 1
        if number < len(self._sizes):
            raise ValueError(
                f"{self._where}: got another number or size of batches in a later "
                f"pass, from batch {number} on, expected {len(self._sizes)} as at "
                "first."
            )

    def _read(self, start: int) -> Iterator[Batch]:
        for number, element in enumerate(_from(self._batches, start), start):
            where = f"{self.split}: batch {number} of {self.name}"
            images, labels = _arrays_of(element, where)
            if self._repeats > 1 and images.shape[-1] == 1:
                images = np.repeat(images, self._repeats, axis=-1)
            if images.shape[1:] != self.image_shape or images.dtype != self.dtype:
                raise ValueError(
                    f"{where}: got images {images.dtype}{list(images.shape)}, expected "
                    f"{self.dtype}{[len(images), *self.image_shape]} like the first."
                )
            wrong = (labels < 0) | (labels >= len(self.class_names))
            if np.any(wrong):
                raise LabelError(
                    where,
                    f"got the label {labels[wrong][0]}, expected 0 to "
                    f"{len(self.class_names) - 1}",
                )
            yield {"image": images, "label": labels.astype(np.int32)}


@dataclasses.dataclass(frozen=True)
class TrainingBatches:
    """The full batches of an iterable, pass after pass; see `TrainStream`."""

    source: Batches
    block: slice
    bad_images: tuple[BadImage, ...] = ()

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches of an epoch."""
        return self.source.num_full

    def batches(self, start_step: int = 0) -> Generator[Batch]:
        """Returns this process's blocks of the batches from a step on."""
        skipped = start_step % self.steps_per_epoch
        while True:
            for batch in self.source.read(skipped):
                if len(batch["label"]) == self.source.batch_size:
                    yield {name: array[self.block] for name, array in batch.items()}
            skipped = 0


@dataclasses.dataclass(frozen=True)
class EvaluationBatches:
    """The batches of one pass, padded and masked; see `EvalStream`."""

    source: Batches
    batch_size: int
    block: slice
    bad_images: tuple[BadImage, ...] = ()

    def batches(self) -> Generator[Batch]:
        """Returns this process's blocks of one pass."""
        for batch in self.source.read(0):
            missing = self.batch_size - len(batch["label"])
            batch["mask"] = np.ones(len(batch["label"]), np.float32)
            yield {
                name: np.pad(array, [(0, missing), *[(0, 0)] * (array.ndim - 1)])[
                    self.block
                ]
                for name, array in batch.items()
            }


def first_image(batches: Iterable[Any], split: str) -> np.ndarray:
    """Returns the first image of an iterable of batches.

    Args:
      batches: The iterable.
      split: Which part of the data it is, for errors.

    Raises:
      ValueError: If there is none, or the first element is no batch.
    """
    for element in _from(batches, 0):
        images, _ = _arrays_of(element, f"{split}: batch 0")
        return images[0]
    raise ValueError(f"{split}: got no batch, expected at least one.")


def _from(batches: Any, start: int) -> Iterator[Any]:
    """Returns an iterable's elements from one on, without computing those before it."""
    kind = type(batches)
    if hasattr(kind, "__getitem__") and hasattr(kind, "__len__"):
        return (batches[number] for number in range(start, len(batches)))
    elements = iter(batches)
    for _ in range(start):
        next(elements, None)
    return elements


def _arrays_of(element: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels of a batch, whatever its arrays are of."""
    if isinstance(element, Mapping) and {"image", "label"} <= set(element):
        element = element["image"], element["label"]
    if not (isinstance(element, tuple | list) and len(element) == 2):
        found = (
            f"a mapping with {sorted(map(str, element))}"
            if isinstance(element, Mapping)
            else f"a {type(element).__name__}"
        )
        raise ValueError(
            f"{where}: got {found}, expected a pair (images, labels), or a mapping "
            "with 'image' and 'label'."
        )
    images, labels = (np.asarray(each) for each in element)
    if np.issubdtype(images.dtype, np.floating):
        images = images.astype(np.float32)
    if (
        images.dtype not in (np.uint8, np.float32)
        or images.ndim != 4
        or not len(images)
    ):
        hint = ""
        if images.ndim == 3:
            hint = "; .batch(size) makes batches of a Grain dataset's examples"
        raise ValueError(
            f"{where}: got images {images.dtype}{list(images.shape)}, expected uint8 "
            f"or floating-point (n, height, width, channels){hint}."
        )
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{where}: got labels {labels.dtype}{list(labels.shape)}, expected "
            f"integers ({len(images)},)."
        )
    return images, labels
