"""`.npz` files: a zip of NumPy arrays, of which none may be a pickle."""

from __future__ import annotations

import contextlib
import io
import math
import pathlib
import zipfile
from collections.abc import Iterator
from typing import IO

import numpy as np

from cnn_jax.files import FileError, reading
from cnn_jax.pretrained.files.mappings import without_prefixes
from cnn_jax.pretrained.files.own_weights import (
    MAX_METADATA,
    METADATA_NAME,
    OwnWeights,
    parse_metadata,
    provenance_of,
)
from cnn_jax.pretrained.files.stored import StoredArray, Weights, check_count
from cnn_jax.pretrained.files.zips import open_zip

_MAX_HEADER = 2**16
"""In bytes; NumPy takes a header of 10,000 at most."""


def describe_npz(path: pathlib.Path) -> OwnWeights | None:
    """Returns what a file of ours says of its weights; None for any other file.

    Raises:
      FileError: As `open_npz`.
    """
    with _opened(path) as arrays:
        return _own(path, arrays)


@contextlib.contextmanager
def open_npz(path: pathlib.Path) -> Iterator[Weights]:
    """Opens a file and describes its arrays.

    Raises:
      FileError: If the file is no zip of `.npy` files, if one of them is pickled, or if
        one's header does not fit its size; or as `open_zip`.
    """
    with _opened(path) as arrays:
        own = _own(path, arrays)
        if own is not None:
            del arrays[METADATA_NAME]
        yield Weights(without_prefixes(arrays), provenance_of(path, own))


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[dict[str, StoredArray]]:
    with contextlib.ExitStack() as stack:
        with _reading(path):
            archive = stack.enter_context(open_zip(path))
            entries = archive.infolist()
            check_count([entry.filename for entry in entries], path)
            arrays = {
                entry.filename.removesuffix(".npy"): _describe(path, archive, entry)
                for entry in entries
            }
        yield arrays


def _reading(path: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    return reading(
        path,
        "one that numpy.savez(path, **arrays) wrote",
        found="a damaged npz file",
    )


def _own(path: pathlib.Path, arrays: dict[str, StoredArray]) -> OwnWeights | None:
    found = arrays.get(METADATA_NAME)
    if found is None or found.dtype != "uint8" or len(found.shape) != 1:
        return None
    if found.shape[0] > MAX_METADATA:
        raise FileError(
            f"{path}: got {found.shape[0]:,} bytes of metadata, expected at most "
            f"{MAX_METADATA:,}; convert the weights again."
        )
    return parse_metadata(found.read().tobytes(), str(path))


def _describe(
    path: pathlib.Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo
) -> StoredArray:
    if not entry.filename.endswith(".npy"):
        raise ValueError(f"{entry.filename} is no array")
    with archive.open(entry) as file:
        shape, dtype, offset = _read_header(file)
    size = entry.file_size - offset
    if dtype.hasobject:
        raise ValueError(f"{entry.filename} is pickled, which could run any code")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size:
        raise ValueError(
            f"{entry.filename} claims {dtype}{list(shape)} in {size} bytes"
        )

    def read() -> np.ndarray:
        with _reading(path), archive.open(entry) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    return StoredArray(shape, str(dtype), read)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype, int]:
    """Returns the shape, the dtype and where the numbers begin."""
    # NumPy would read as many bytes as a header says that it has.
    start = io.BytesIO(file.read(_MAX_HEADER))
    version = np.lib.format.read_magic(start)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"a header of version {version}")
    shape, _, dtype = readers[version](start)
    return shape, dtype, start.tell()
