"""`.npz` files: a zip of NumPy arrays, of which none may be a pickle."""

from __future__ import annotations

import contextlib
import functools
import math
import pathlib
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

import numpy as np

from cnn_jax.pretrained.files.mappings import without_prefixes
from cnn_jax.pretrained.files.own_weights import (
    METADATA_NAME,
    OwnWeights,
    parse_metadata,
    provenance_of,
)
from cnn_jax.pretrained.files.stored import StoredArray, Weights

_LARGEST_METADATA = 2**24
"""In bytes: more than any model's names can fill."""


def describe_npz(path: pathlib.Path) -> OwnWeights | None:
    """Returns what a file of ours says of its weights; None for any other file.

    Raises:
      ValueError: As `open_npz`.
    """
    with _opened(path) as arrays:
        return _own(path, arrays)


@contextlib.contextmanager
def open_npz(path: pathlib.Path) -> Iterator[Weights]:
    """Opens a file and describes its arrays.

    Raises:
      ValueError: If the file is no zip of `.npy` files, if one of them is pickled, or
        if one's header does not fit its size.
    """
    with _opened(path) as arrays:
        own = _own(path, arrays)
        if own is not None:
            del arrays[METADATA_NAME]
        yield Weights(without_prefixes(arrays), provenance_of(path, own))


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[dict[str, StoredArray]]:
    try:
        archive = zipfile.ZipFile(path)
        arrays = {
            entry.filename.removesuffix(".npy"): _describe(archive, entry)
            for entry in archive.infolist()
        }
    # NumPy's parser of headers raises whatever Python's does.
    except (
        EOFError,
        NotImplementedError,
        OSError,
        RuntimeError,
        SyntaxError,
        ValueError,
        zipfile.BadZipFile,
    ) as error:
        raise ValueError(
            f"{path}: got a damaged npz file ({error}); expected one that "
            "numpy.savez(path, **arrays) wrote."
        ) from error
    with archive:
        yield arrays


def _own(path: pathlib.Path, arrays: dict[str, StoredArray]) -> OwnWeights | None:
    found = arrays.get(METADATA_NAME)
    if found is None or found.dtype != "uint8" or len(found.shape) != 1:
        return None
    if found.shape[0] > _LARGEST_METADATA:
        raise ValueError(
            f"{path}: got {found.shape[0]} bytes of metadata, expected at most "
            f"{_LARGEST_METADATA}; convert the weights again."
        )
    try:
        content = found.read().tobytes()
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path}: got damaged metadata ({error}); convert the weights again."
        ) from error
    return parse_metadata(content, str(path))


def _describe(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> StoredArray:
    if not entry.filename.endswith(".npy"):
        raise ValueError(f"{entry.filename} is no array")
    with archive.open(entry) as file:
        shape, dtype = _read_header(file)
        size = entry.file_size - file.tell()
    if dtype.hasobject:
        raise ValueError(f"{entry.filename} is pickled, which could run any code")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size:
        raise ValueError(
            f"{entry.filename} claims {dtype}{list(shape)} in {size} bytes"
        )
    return StoredArray(
        shape, str(dtype), functools.partial(_read_array, archive, entry)
    )


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"a header of version {version}")
    shape, _, dtype = readers[version](file)
    return shape, dtype


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
