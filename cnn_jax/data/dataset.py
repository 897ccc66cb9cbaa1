"""A labelled set of images held in memory: the source for small sets."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from cnn_jax.data.converted import Converted, in_channels
from cnn_jax.data.source import Example, Features, Source, cached_property
from cnn_jax.data.subset import Subset, check_both_sides, check_fraction
from cnn_jax.preprocessing import Preprocessing
from cnn_jax.seeds import check_seed

COUNTED_AT_ONCE = 2**24
"""Pixels whose values are counted at once."""


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """The images of a `Dataset` as they were before they were brought to one size.

    Attributes:
      source: As many examples, in the same order.
      size: Their height and width; None if they differ.
      prepared: How they were brought to one size.
    """

    source: Source
    size: tuple[int, int] | None
    prepared: Preprocessing

    def take(self, indices: np.ndarray, split: str) -> Origin:
        """Returns the origin of the examples at `indices`."""
        source = Subset(self.source, np.asarray(indices), split)
        return dataclasses.replace(self, source=source)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images of one size with one label each, checked when it is made.

    Attributes:
      name: Which dataset this is.
      split: Which part of it.
      images: uint8, or floating-point numbers as the model wants them, which become
        float32; shape `(n, height, width, channels)`.
      labels: int32, shape `(n,)`, each in `[0, num_classes)`.
      class_names: One name per class.
      origin: The images before they were resized or padded; None if they were not.

    Raises:
      ValueError: If the arrays do not fit each other, the split is empty, or a label
        is out of range.
    """

    name: str
    split: str
    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    origin: Origin | None = None

    def __post_init__(self) -> None:
        where = f"dataset {self.name!r}, split {self.split!r}"
        is_float = np.issubdtype(self.images.dtype, np.floating)
        if not (is_float or self.images.dtype == np.uint8) or self.images.ndim != 4:
            raise ValueError(
                f"{where}: got images {self.images.dtype}{list(self.images.shape)}, "
                "expected uint8 or floating-point numbers of shape (n, height, width, "
                "channels)."
            )
        if len(self.images) == 0:
            raise ValueError(f"{where}: got no examples, expected at least one.")
        if self.labels.shape != self.images.shape[:1] or not np.issubdtype(
            self.labels.dtype, np.integer
        ):
            raise ValueError(
                f"{where}: got labels {self.labels.dtype}{list(self.labels.shape)}, "
                f"expected integers of shape ({len(self.images)},)."
            )
        lowest, highest = int(self.labels.min()), int(self.labels.max())
        if lowest < 0 or highest >= self.num_classes:
            first = int(
                np.argmax((self.labels < 0) | (self.labels >= self.num_classes))
            )
            raise ValueError(
                f"{where}: got labels from {lowest} to {highest}, expected 0 to "
                f"{self.num_classes - 1} for {self.num_classes} classes; the first "
                f"wrong one is at index {first}."
            )
        if is_float:
            object.__setattr__(self, "images", self.images.astype(np.float32))
        object.__setattr__(self, "labels", self.labels.astype(np.int32))
        object.__setattr__(self, "class_names", tuple(self.class_names))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        origin = f"{self.name} {self.split}[{index}]"
        return Example(self.images[index], int(self.labels[index]), origin)

    @property
    def num_classes(self) -> int:
        """The number of classes, seen in this split or not."""
        return len(self.class_names)

    @property
    def features(self) -> Features:
        """Pixels of one size."""
        return Features(self.image_shape, encoded=False)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(height, width, channels)`."""
        return self.images.shape[1:]

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 over shape, class names, pixels and labels, in order."""
        total = hashlib.sha256()
        total.update(repr((self.images.shape, self.class_names)).encode())
        total.update(np.ascontiguousarray(self.images).data)
        total.update(np.ascontiguousarray(self.labels.astype("<i4")).data)
        return total.hexdigest()

    @cached_property
    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, of pixels scaled to [0, 1].

        Floating-point images count as they are.
        """
        if self.images.dtype != np.uint8:
            rows = self.images.reshape(-1, self.image_shape[2]).astype(np.float64)
            return tuple(rows.mean(axis=0).tolist()), tuple(rows.std(axis=0).tolist())
        return statistics_of_counts(count_values(self.images))

    def take(self, indices: Sequence[int] | np.ndarray, split: str = "") -> Dataset:
        """Returns the examples at `indices`, in that order."""
        indices = np.asarray(indices)
        split = split or self.split
        return dataclasses.replace(
            self,
            split=split,
            images=self.images[indices],
            labels=self.labels[indices],
            origin=self.origin and self.origin.take(_numbers(indices), split),
        )

    def take_per_class(self, count: int, seed: int = 0) -> Dataset:
        """Draws the same number of examples from every class.

        Args:
          count: How many of each; a class that has fewer gives all of them.
          seed: Chooses which ones. For one seed, fewer are a part of more.

        Returns:
          Those examples, in the original order.

        Raises:
          ValueError: If `count` is not positive, or the seed is none.
        """
        if count < 1:
            raise ValueError(f"count: got {count}, expected at least 1.")
        # As in `split_off`: a stream that never changes.
        random = np.random.RandomState(check_seed(seed))
        chosen = [
            random.permutation(np.flatnonzero(self.labels == label))[:count]
            for label in range(self.num_classes)
        ]
        return self.take(
            np.sort(np.concatenate(chosen)), f"{count} per class from {self.split}"
        )

    def of_classes(self, classes: Sequence[int]) -> Dataset:
        """Returns the examples of some classes, which are numbered anew, as listed.

        Raises:
          ValueError: If a class is listed twice or does not exist.
        """
        if len(set(classes)) < len(classes) or not set(classes) <= set(
            range(self.num_classes)
        ):
            raise ValueError(
                f"classes: got {list(classes)}, expected different ones from 0 to "
                f"{self.num_classes - 1}."
            )
        numbers = np.full(self.num_classes, -1)
        numbers[list(classes)] = np.arange(len(classes))
        chosen = np.flatnonzero(numbers[self.labels] >= 0)
        names = tuple(self.class_names[label] for label in classes)
        split = f"{', '.join(names)} from {self.split}"
        return dataclasses.replace(
            self,
            split=split,
            images=self.images[chosen],
            labels=numbers[self.labels[chosen]],
            class_names=names,
            origin=self.origin and self.origin.take(chosen, split),
        )

    def with_channels(self, channels: int) -> Dataset:
        """Returns the images with so many channels.

        Grey ones are repeated; grey ones are made of uint8 images in colour.

        Raises:
          ValueError: If the images have another number and are neither.
        """
        found = self.image_shape[2]
        if found == channels:
            return self
        is_colour = (found, channels) == (3, 1) and self.images.dtype == np.uint8
        if found != 1 and not is_colour:
            raise ValueError(
                f"channels: got {channels} for images of {found}, expected as many, or "
                "grey images, whose channel can be repeated."
            )
        origin = self.origin
        if origin is not None:
            source = Converted(origin.source, channels)
            origin = dataclasses.replace(origin, source=source)
        images = in_channels(self.images, channels)
        return dataclasses.replace(self, images=images, origin=origin)

    def split_off(self, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Holds out a part of every class.

        Args:
          fraction: The share to hold out, in (0, 1); each class gives that share of
            its examples, rounded.
          seed: Chooses which ones.

        Returns:
          The rest and the held-out part, both in the original order.

        Raises:
          ValueError: If `fraction` is out of range or leaves one part empty, or the
            seed is none.
        """
        check_fraction(fraction)
        # RandomState's stream is frozen by NumPy's policy; default_rng's is not, and a
        # changed split would change what an old run was validated on.
        random = np.random.RandomState(check_seed(seed))
        held = np.zeros(len(self), dtype=bool)
        for label in range(self.num_classes):
            members = np.flatnonzero(self.labels == label)
            held[random.permutation(members)[: round(len(members) * fraction)]] = True
        check_both_sides(fraction, int(held.sum()), len(self))
        return (
            self.take(np.flatnonzero(~held), f"{self.split} without validation"),
            self.take(np.flatnonzero(held), f"validation from {self.split}"),
        )


def count_values(images: np.ndarray) -> np.ndarray:
    """Returns how often each value is in each channel.

    Args:
      images: uint8 `(n, height, width, channels)`.

    Returns:
      int64 `(channels, 256)`.
    """
    # np.bincount makes int64 of what it counts, eight times the memory.
    per_part = max(1, COUNTED_AT_ONCE // max(1, images[0, ..., 0].size))
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, len(images), per_part):
        part = images[start : start + per_part]
        for channel, found in enumerate(counts):
            found += np.bincount(part[..., channel].reshape(-1), minlength=256)
    return counts


def statistics_of_counts(
    counts: np.ndarray,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and deviation of each channel, of values scaled to [0, 1].

    Exact but for the last rounding, whatever the number of pixels.

    Args:
      counts: From `count_values`, or a sum of such.
    """
    values = np.arange(256, dtype=np.float64) / 255
    means, deviations = [], []
    for row in counts:
        weights = row / row.sum()
        mean = float(weights @ values)
        means.append(mean)
        deviations.append(float(np.sqrt(weights @ (values - mean) ** 2)))
    return tuple(means), tuple(deviations)


def _numbers(indices: np.ndarray) -> np.ndarray:
    """Returns a mask as the numbers that it chooses."""
    return np.flatnonzero(indices) if indices.dtype == bool else indices
