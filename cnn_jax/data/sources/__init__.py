"""Sources of datasets: bundled with a library, prepared on disk, or synthetic.

Everything here runs without TensorFlow: scikit-learn's digits are part of its wheel,
and prepared TFDS sets are read through `tfds.data_source` (array_record files) with
Pillow decoding the images, so that the pixels do not depend on what else is installed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Annotated

import numpy as np

from cnn_jax.data.dataset import Dataset, Origin
from cnn_jax.data.prepared import is_small, pixels_of, prepare_pixels, stored
from cnn_jax.data.source import Example, Source
from cnn_jax.data.sources.digits import load_digits
from cnn_jax.data.sources.folder import Folder
from cnn_jax.data.sources.resident_size import check_memory
from cnn_jax.data.sources.synthetic import Synthetic
from cnn_jax.data.sources.tfds import DATA_VARIABLE, TfdsSource
from cnn_jax.preprocessing import Preprocessing
from cnn_jax.ranges import MAX_SIDE, Whole, problem, shown

__all__ = [
    "DATA_VARIABLE",
    "Folder",
    "Synthetic",
    "TfdsSource",
    "load_dataset",
    "open_source",
    "read_source",
]


def open_source(
    name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None
) -> Source:
    """Opens one split of a dataset, whose examples are read on demand.

    Args:
      name: `"digits"` (1,797 handwritten digits, bundled with scikit-learn),
        `"folder:PATH"` (a directory per class, see `Folder`), `"synthetic:HxWxC"`
        (noise, see `Synthetic`), or any TFDS image classification set that was prepared
        as array_record, `"mnist"` or `"cifar10:3.0.2"`, say.
      split: `"train"`, `"test"`, a directory's name, or for TFDS any split or sub-split
        (`"train[:10%]"`).
      data_dir: The directory of TFDS sets, see `TfdsSource`.

    Returns:
      The source.

    Raises:
      FileNotFoundError: If the set or the split is not there; the message says where it
        was looked for.
      ValueError: If the split is unknown or empty, or the set is not one of labelled
        images.
    """
    if name == "digits":
        return load_digits(split, 32)
    kind, _, rest = name.partition(":")
    if kind == "folder":
        if not rest:
            raise ValueError(
                f"dataset: got {name!r}, expected folder:PATH, folder:/data/flowers "
                "say."
            )
        return Folder(rest, split)
    if kind == "synthetic":
        return Synthetic(name, split)
    return TfdsSource(name, split, data_dir)


def load_dataset(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    progress: bool = True,
) -> Dataset:
    """Reads one split of a dataset into memory.

    Args:
      name: As in `open_source`.
      split: As there.
      data_dir: As there.
      image_size: The height and width wanted. Images are brought to it as
        `cnn_jax.data.stored` says. When None, images keep their size (digits have
        32x32 then).
      progress: Whether to show a progress bar, if the terminal can.

    Returns:
      The split. Grayscale images have one channel.

    Raises:
      FileNotFoundError, ValueError: As `open_source`, and if images differ in size, an
        image cannot be decoded (`ImageError`), or a label is out of range.
    """
    if image_size is not None:
        _check_side(image_size)
    if name == "digits":
        return load_digits(split, 32 if image_size is None else image_size)
    source = open_source(name, split, data_dir=data_dir)
    return read_source(source, image_size=image_size, progress=progress)


def read_source(
    source: Source, *, image_size: int | None = None, progress: bool = True
) -> Dataset:
    """Reads all examples of a source into memory.

    Args:
      source: The examples.
      image_size: As for `load_dataset`.
      progress: Whether to show a progress bar, if the terminal can.

    Raises:
      ValueError: As `load_dataset` does, and if there is no memory for the images.
    """
    name, split = source.name, source.split
    height, width, channels = source.features.image_shape
    if image_size is not None:
        _check_side(image_size)
        height = width = image_size
    if height is not None and width is not None:
        check_memory(name, split, len(source), (height, width, channels))
    how = None if image_size is None else stored(image_size, channels)
    images: list[np.ndarray] = []
    labels: list[int] = []
    sizes: set[tuple[int, int]] = set()
    for example in _track(source, progress):
        image = pixels_of(example, channels)
        sizes.add(image.shape[:2])
        image = image if how is None else prepare_pixels(image, how)
        if images and image.shape != images[0].shape:
            raise ValueError(
                f"dataset {name!r}, split {split!r}: got an image of shape "
                f"{image.shape} at index {len(images)} after {images[0].shape}, "
                "expected images of one size; pass image_size to bring them to one."
            )
        images.append(image)
        labels.append(example.label)
    return Dataset(
        name=name,
        split=split,
        images=np.stack(images),
        labels=np.asarray(labels, dtype=np.int64),
        class_names=source.class_names,
        origin=_origin(source, how, sizes),
    )


def _origin(
    source: Source, how: Preprocessing | None, sizes: set[tuple[int, int]]
) -> Origin | None:
    """Returns what the images were, unless they are that still."""
    size = next(iter(sizes)) if len(sizes) == 1 else None
    if how is None or (size == (how.size, how.size) and is_small(source, size)):
        return None
    return Origin(source, size, how)


def _check_side(image_size: int) -> None:
    side = Annotated[int, Whole(1, MAX_SIDE)]
    if (expected := problem(image_size, side)) is not None:
        raise ValueError(f"image_size: got {shown(image_size)}, expected {expected}.")


def _track(source: Source, progress: bool) -> Iterable[Example]:
    import rich.console
    import rich.progress

    return rich.progress.track(
        (source[index] for index in range(len(source))),
        total=len(source),
        description=f"Reading {source.name} {source.split}",
        console=rich.console.Console(stderr=True),
        transient=True,
        disable=not (progress and sys.stderr.isatty()),
    )
