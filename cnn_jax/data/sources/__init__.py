"""Where datasets come from: bundled with a library, or prepared on disk.

Everything here runs without TensorFlow: scikit-learn's digits are part of its wheel,
and prepared TFDS sets are read through `tfds.data_source` (array_record files) with
Pillow decoding the images, so that the pixels do not depend on what else is installed.
"""

from __future__ import annotations

import difflib
import io
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cnn_jax.data.dataset import Dataset

DATA_VARIABLE = "CNN_JAX_DATA"
"""The environment variable naming a directory whose `tfds/` holds prepared sets."""

_CHUNK = 256  # records read at once: few calls, and the progress bar still moves


def load_dataset(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike | None = None,
    image_size: int | None = None,
    progress: bool = True,
) -> Dataset:
    """Reads one split of a dataset into memory.

    Args:
      name: `"digits"` (1,797 handwritten digits, bundled with scikit-learn; 32x32
        unless `image_size` says otherwise), or any TFDS image classification set that
        was prepared as array_record, `"mnist"` or `"cifar10:3.0.2"`, say.
      split: `"train"`, `"test"`, or for TFDS any split or sub-split (`"train[:10%]"`).
      data_dir: Where TFDS sets lie. When None: `$CNN_JAX_DATA/tfds` if that variable is
        set, else TFDS's own default (`~/tensorflow_datasets`).
      image_size: The height and width wanted. An image up to a quarter smaller is
        padded with zeros on all sides (MNIST's 28x28 become 32x32 without touching a
        pixel); any other is resized (bicubic). When None, images keep their size.
      progress: Whether to show a progress bar, if the terminal can.

    Returns:
      The split. Grayscale images have one channel.

    Raises:
      FileNotFoundError: If the set is not there; the message says where it was looked
        for and how to get it.
      ValueError: If the split is unknown or empty, a label is out of range, images
        differ in size, or the set is not one of labelled images.
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size: got {image_size}, expected a positive integer.")
    if name == "digits":
        return _load_digits(split, 32 if image_size is None else image_size)
    return _load_tfds(name, split, data_dir, image_size, progress)


def _load_digits(split: str, image_size: int) -> Dataset:
    import sklearn.datasets
    from PIL import Image

    if split not in ("train", "test"):
        raise ValueError(f"split: got {split!r}, expected 'train' or 'test'.")
    scans = sklearn.datasets.load_digits()
    pixels = np.round(scans.images * (255 / 16)).astype(np.uint8)
    images = np.stack(
        [
            np.asarray(
                Image.fromarray(scan).resize(
                    (image_size,) * 2, Image.Resampling.BICUBIC
                )
            )
            for scan in pixels
        ]
    )
    # The scans are ordered by writer, so every fifth example of each class gives a
    # test split with every writer in it, and no random number decides it.
    is_test = np.zeros(len(images), dtype=bool)
    for label in range(10):
        is_test[np.flatnonzero(scans.target == label)[4::5]] = True
    chosen = is_test if split == "test" else ~is_test
    return Dataset(
        name="digits",
        split=split,
        images=images[chosen][..., np.newaxis],
        labels=scans.target[chosen],
        class_names=tuple(map(str, range(10))),
    )


def _load_tfds(
    name: str,
    split: str,
    data_dir: str | os.PathLike | None,
    image_size: int | None,
    progress: bool,
) -> Dataset:
    import tensorflow_datasets as tfds

    directory = _tfds_directory(data_dir)
    _require_prepared(name, directory)
    builder = tfds.builder(name, data_dir=directory)
    image_key, label_key = builder.info.supervised_keys or ("image", "label")
    features = dict(builder.info.features.items())
    if not (
        isinstance(features.get(image_key), tfds.features.Image)
        and isinstance(features.get(label_key), tfds.features.ClassLabel)
    ):
        raise ValueError(
            f"dataset {name!r}: got features {sorted(features)} with the supervised "
            f"keys ({image_key!r}, {label_key!r}), expected an image and a class label."
        )
    try:
        source = builder.as_data_source(
            split=split, decoders={image_key: tfds.decode.SkipDecoding()}
        )
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"split: got {split!r}, expected one of {sorted(builder.info.splits)} of "
            f"{name!r} or a slice of one, such as 'train[:10%]'. ({error})"
        ) from error
    images, labels = [], []
    for record in _records(source, f"{name} {split}", progress):
        image = _decode(record[image_key], features[image_key].shape[-1])
        image = image if image_size is None else _fit(image, image_size)
        if images and image.shape != images[0].shape:
            raise ValueError(
                f"dataset {name!r}, split {split!r}: got an image of shape "
                f"{image.shape} at index {len(images)} after {images[0].shape}, "
                "expected images of one size; pass image_size to bring them to one."
            )
        images.append(image)
        labels.append(record[label_key])
    return Dataset(
        name=name,
        split=split,
        images=np.stack(images) if images else np.zeros((0, 1, 1, 1), np.uint8),
        labels=np.asarray(labels, dtype=np.int64),
        class_names=tuple(features[label_key].names),
    )


def _tfds_directory(data_dir: str | os.PathLike | None) -> pathlib.Path:
    if data_dir is not None:
        return pathlib.Path(data_dir).expanduser()
    if os.environ.get(DATA_VARIABLE):
        return pathlib.Path(os.environ[DATA_VARIABLE]).expanduser() / "tfds"
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return pathlib.Path(default).expanduser()


def _require_prepared(name: str, directory: pathlib.Path) -> None:
    """Raises unless a prepared set lies at `directory`, with words on getting it."""
    base, _, version = name.partition(":")
    home = directory / base / version
    prepared = sorted(home.rglob("dataset_info.json")) if home.is_dir() else []
    if prepared and any(
        '"array_record"' in path.read_text(encoding="utf-8") for path in prepared
    ):
        return
    problem = (
        f"found {base!r} there, but not as array_record files"
        if prepared
        else f"expected a prepared TFDS set in {home}"
    )
    present = (
        sorted(path.name for path in directory.iterdir() if path.is_dir())
        if directory.is_dir()
        else []
    )
    near = difflib.get_close_matches(base, [*present, "digits"], n=3)
    raise FileNotFoundError(
        f"dataset {name!r}: looked in {directory}, {problem}."
        + (f" Did you mean {' or '.join(map(repr, near))}?" if near else "")
        + f" To get it, run\n  tfds build {base} --data_dir {directory} "
        "--file_format array_record\non a machine with TensorFlow, or copy a prepared "
        f"set to {directory / base}/VERSION; another place is named by data_dir or by "
        f"${DATA_VARIABLE} (its subdirectory tfds)."
    )


def _records(source: Sequence[Any], title: str, progress: bool) -> Iterator[Any]:
    import rich.console
    import rich.progress

    for start in rich.progress.track(
        range(0, len(source), _CHUNK),
        description=f"Reading {title}",
        console=rich.console.Console(stderr=True),
        transient=True,
        disable=not (progress and sys.stderr.isatty()),
    ):
        stop = min(start + _CHUNK, len(source))
        yield from source.__getitems__(range(start, stop))


def _decode(encoded: bytes, channels: int | None) -> np.ndarray:
    """Decodes an image file to `(height, width, channels)`, uint8."""
    from PIL import Image

    image = Image.open(io.BytesIO(encoded))
    pixels = np.asarray(image.convert({1: "L", 4: "RGBA"}.get(channels, "RGB")))
    return pixels.reshape(*pixels.shape[:2], -1)


def _fit(image: np.ndarray, size: int) -> np.ndarray:
    """Brings an image to `(size, size, channels)`: padded if close, else resized."""
    from PIL import Image

    height, width, channels = image.shape
    if (height, width) == (size, size):
        return image
    if all(3 * size <= 4 * side <= 4 * size for side in (height, width)):
        margins = [(size - side) // 2 for side in (height, width)]
        padded = np.zeros((size, size, channels), np.uint8)
        padded[margins[0] : margins[0] + height, margins[1] : margins[1] + width] = (
            image
        )
        return padded
    resized = Image.fromarray(image[..., 0] if channels == 1 else image).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    return np.asarray(resized).reshape(size, size, channels)
