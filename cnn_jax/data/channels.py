"""Splits whose images get another number of channels, on the host."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np

from cnn_jax.data.batches import Batches
from cnn_jax.data.dataset import Dataset, in_channels
from cnn_jax.data.source import Example, Features, Source, cached_property

GREY, RGB = 1, 3
"""The channels that image files can be decoded to."""


def num_channels(split: Source | Batches) -> int:
    """Returns how many channels a split's images have."""
    if isinstance(split, Batches):
        return split.image_shape[2]
    return split.features.image_shape[2]


def with_channels(split: Any, channels: int) -> Any:
    """Returns a split whose images have so many channels.

    Grey images are repeated to three channels; of colour ones grey is made as Pillow
    does. Image files are decoded to as many.

    Args:
      split: A `Source` or `Batches`.
      channels: The number.

    Returns:
      The split itself if it has as many, else one of the same kind: a `Dataset`,
      another `Source`, or `Batches`.

    Raises:
      ValueError: If the images have another number and cannot be brought to it.
    """
    found = num_channels(split)
    if found == channels:
        return split
    has_grey = not isinstance(split, Batches) and (found, channels) == (RGB, GREY)
    if isinstance(split, Dataset) and split.images.dtype != np.uint8:
        has_grey = False
    if (found, channels) != (GREY, RGB) and not has_grey:
        also = " (or 3: grey images are repeated)" if found == GREY else ""
        raise ValueError(
            f"channels: got images of {found} in {split.name!r} for a network of "
            f"{channels}, expected a network of {found}{also}; in_channels={found} "
            "makes one."
        )
    if isinstance(split, Dataset | Batches):
        return split.with_channels(channels)
    return _Converted(split, channels)


@dataclasses.dataclass(frozen=True, eq=False)
class _Converted:
    """A source whose examples are decoded or repeated to another number of channels.

    Attributes:
      source: The examples.
      channels: The number.
    """

    source: Source
    channels: int

    @property
    def name(self) -> str:
        """The source's name."""
        return self.source.name

    @property
    def split(self) -> str:
        """The source's split."""
        return self.source.split

    @property
    def class_names(self) -> tuple[str, ...]:
        """The source's class names."""
        return self.source.class_names

    @property
    def features(self) -> Features:
        """Those of the source, but for the channels."""
        found = self.source.features
        return Features((*found.image_shape[:2], self.channels), found.encoded)

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 over the source's own and the number of channels."""
        text = f"{self.source.fingerprint} {self.channels}"
        return hashlib.sha256(text.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        if isinstance(example.image, bytes):  # who decodes it goes by `features`
            return example
        (pixels,) = in_channels(example.image[np.newaxis], self.channels)
        return example._replace(image=pixels)
