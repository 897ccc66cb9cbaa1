"""Images in memory as evaluation sees them, and what is known of a split's images."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator

import numpy as np
from PIL import Image

from cnn_jax.data.dataset import Dataset, Origin, count_values, statistics_of_counts
from cnn_jax.data.host.decode import (
    ImageError,
    decode_image,
    image_size,
    read_image_file,
    to_array,
)
from cnn_jax.data.host.policies import eval_transform
from cnn_jax.data.source import Example, Source
from cnn_jax.preprocessing import Preprocessing

RESIDENT_BYTES = 2**30
"""The largest split, as uint8 pixels, that is kept on every device unless a run says
otherwise, and that is gone through for its own mean and deviation."""


def stored(size: int, channels: int) -> Preprocessing:
    """Returns how images are brought to one size when they are read into memory.

    An image up to a quarter smaller is padded with zeros on all sides (MNIST's 28x28
    become 32x32 without touching a pixel); any other is resized (bicubic).
    """
    return Preprocessing(
        size,
        mean=None,
        std=None,
        crop_fraction=1.0,
        crop_mode="pad",
        interpolation="bicubic",
        channels=channels,
    )


def evaluated(dataset: Dataset, preprocessing: Preprocessing) -> Dataset:
    """Returns a set with its images as evaluation sees them, as a stream's are.

    Args:
      dataset: The set, of which floating-point images stay as they are. Images that
        were resized when they were read are read again unless that was the same.
      preprocessing: How images are prepared, up to their normalisation.

    Returns:
      The set, whose origin says so: the same again changes nothing.

    Raises:
      ValueError: If an image cannot be read again (`ImageError`).
    """
    size, height, width = preprocessing.size, *dataset.image_shape[:2]
    if dataset.images.dtype != np.uint8 or _is_same(dataset, preprocessing):
        return dataset
    origin = dataset.origin or Origin(dataset, (height, width), preprocessing)
    channels = dataset.image_shape[2]
    images = np.empty((len(dataset), size, size, channels), np.uint8)
    for index, image in enumerate(images):
        found = pixels_of(origin.source[index], channels)
        image[...] = prepare_pixels(found, preprocessing)
    origin = dataclasses.replace(origin, prepared=preprocessing)
    return dataclasses.replace(dataset, images=images, origin=origin)


def _is_same(dataset: Dataset, preprocessing: Preprocessing) -> bool:
    """Returns whether a set's images are as evaluation sees them already."""
    if dataset.origin is None:
        return keeps(dataset.image_shape[:2], preprocessing)
    own, side = dataset.origin.prepared, preprocessing.size
    if dataset.origin.size == (side, side) and own.crop_fraction == 1.0:
        return keeps(dataset.origin.size, preprocessing)
    names = ["size", "crop_fraction", "crop_mode", "interpolation"]
    if preprocessing.crop_mode == "border":  # whose colour it is
        names.append("mean")
    return all(getattr(own, name) == getattr(preprocessing, name) for name in names)


def keeps(size: tuple[int, int], preprocessing: Preprocessing) -> bool:
    """Returns whether evaluation sees images of a size as they are."""
    side = preprocessing.size
    return size == (side, side) and preprocessing.crop_fraction == 1.0


def prepare_pixels(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Brings an image to the input's size.

    Args:
      image: uint8 `(height, width, channels)`.
      preprocessing: How.
    """
    if keeps(image.shape[:2], preprocessing):
        return image
    channels = image.shape[2]
    if channels not in (1, 3):  # Pillow takes others for transparency, or not at all
        each = [
            prepare_pixels(image[..., [channel]], _of_channel(preprocessing, channel))
            for channel in range(channels)
        ]
        return np.concatenate(each, axis=-1)
    opened = Image.fromarray(image[..., 0] if channels == 1 else image)
    return to_array(eval_transform(preprocessing)(opened))


def _of_channel(preprocessing: Preprocessing, channel: int) -> Preprocessing:
    mean, std = (
        None if value is None else (value[channel],)
        for value in (preprocessing.mean, preprocessing.std)
    )
    return dataclasses.replace(preprocessing, mean=mean, std=std, channels=1)


def prepared_image(
    path: str | os.PathLike[str], preprocessing: Preprocessing
) -> np.ndarray:
    """Reads an image file as evaluation sees it.

    Args:
      path: The file, in one of `cnn_jax.data.host.decode.FORMATS`.
      preprocessing: How it is brought to the input's size, with 1 or 3 channels.

    Returns:
      uint8 of the input's shape.

    Raises:
      ImageError: If it is no image that can be read.
      OSError: If there is no such file, or it may not be read.
    """
    image = decode_image(
        read_image_file(path), origin=os.fspath(path), channels=preprocessing.channels
    )
    return prepare_pixels(image, preprocessing)


def pixels_of(example: Example, channels: int) -> np.ndarray:
    """Returns an example's pixels, decoded if need be."""
    if isinstance(example.image, bytes):
        return decode_image(example.image, origin=example.origin, channels=channels)
    return example.image


def own_size(split: Source) -> tuple[int, int] | None:
    """Returns the height and width that all images of a split have before resizing.

    Where a source does not declare it, its images' headers are read, up to the first
    that differs, and no more than are in `RESIDENT_BYTES`.

    Returns:
      None if they differ, or are too many to tell.
    """
    if isinstance(split, Dataset) and split.origin is None:
        return split.image_shape[:2]
    if isinstance(split, Dataset) and split.origin is not None:
        source, known = split.origin.source, split.origin.size
        is_declared = None not in source.features.image_shape
        return known if is_declared or is_small(source, known) else None
    height, width, channels = split.features.image_shape
    if height is not None and width is not None:
        return height, width
    found: tuple[int, int] | None = None
    for index in range(len(split)):
        size = _size(split, index)
        if size is None:
            continue
        if found not in (None, size):
            return None
        found = size
        if len(split) * math.prod(found) * channels > RESIDENT_BYTES:
            return None
    return found


def _size(split: Source, index: int) -> tuple[int, int] | None:
    """Returns height and width of an image; None for one that cannot be read."""
    try:
        image = split[index].image
        return image_size(image) if isinstance(image, bytes) else image.shape[:2]
    except Exception:  # whatever is wrong is said by who reads the image itself
        return None


def is_small(split: Source, size: tuple[int, int] | None) -> bool:
    """Returns whether a split's images are of one size and few enough for memory."""
    if size is None:
        return False
    channels = split.features.image_shape[2]
    return len(split) * math.prod(size) * channels <= RESIDENT_BYTES


def channel_statistics(
    split: Source, size: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and deviation of each channel, of pixels scaled to [0, 1].

    Args:
      split: The examples, uint8; all are read, unless they are in memory.
      size: The height and width that they are brought to, as `stored` says: the
        numbers are those of the set that `load_dataset` would return. Unreadable images
        are passed over.
    """
    if isinstance(split, Dataset):
        return split.channel_statistics
    channels = split.features.image_shape[2]
    how = stored(size, channels)
    counts = np.zeros((channels, 256), np.int64)
    for image in _readable(split, channels):
        counts += count_values(prepare_pixels(image, how)[np.newaxis])
    if not counts.any():
        raise ValueError(
            f"dataset {split.name!r}, split {split.split!r}: got no image that can be "
            "read, expected some."
        )
    return statistics_of_counts(counts)


def _readable(split: Source, channels: int) -> Iterator[np.ndarray]:
    for index in range(len(split)):
        try:
            yield pixels_of(split[index], channels)
        except (ImageError, OSError):  # the run counts them
            continue
