"""Splits whose images get another number of channels, on the host."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnn_jax.data.batches import Batches
from cnn_jax.data.converted import Converted
from cnn_jax.data.dataset import Dataset
from cnn_jax.data.source import Source

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
    return Converted(split, channels)
