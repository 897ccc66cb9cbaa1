"""Prepared TFDS sets."""

from __future__ import annotations

import contextlib
import pathlib
import shutil

from cnn_jax.data import open_source
from fuzzing.formats import Format
from fuzzing.formats.archives import make_cifar, prepare_from
from fuzzing.mutations import of_bytes, of_json, of_lines


def _make(directory: pathlib.Path) -> None:
    work = directory / "archives"
    work.mkdir()
    make_cifar(work)
    prepare_from("cifar10", work)
    (work / "tfds" / "cifar10").rename(directory / "fuzzed")
    shutil.rmtree(work)
    with contextlib.suppress(FileNotFoundError):
        # Where a set is not there, TFDS imports its own ones to look for the name.
        open_source("unknown", "train", data_dir=directory)


def _read(directory: pathlib.Path) -> None:
    from cnn_jax.data.host import decode_image

    try:
        source = open_source("fuzzed", "train", data_dir=directory)
        assert len(source.fingerprint) == 64
        for index in range(min(len(source), 100)):
            example = source[index]
            if isinstance(example.image, bytes):
                channels = source.features.image_shape[2]
                decode_image(example.image, origin=example.origin, channels=channels)
    except ValueError as error:
        if "fuzzed" not in str(error):
            raise
        # An example is named by its set, split and number, as the set is by its name.
        raise ValueError(f"{directory}: {error}") from error


FORMATS = (
    Format(
        "tfds",
        _make,
        _read,
        {"*.json": (of_json,), "*.txt": (of_lines(of_bytes),)},
        needs=("tensorflow_datasets", "array_record"),
        allowed_imports=("encodings",),  # of JSON in UTF-16 or UTF-32
    ),
)
