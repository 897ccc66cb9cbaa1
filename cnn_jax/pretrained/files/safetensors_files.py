"""`.safetensors` files: a header of JSON, then the numbers."""

from __future__ import annotations

import contextlib
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from cnn_jax.files import open_regular, reading
from cnn_jax.pretrained.files.mappings import without_prefixes
from cnn_jax.pretrained.files.own_weights import (
    METADATA_NAME,
    OwnWeights,
    parse_metadata,
    provenance_of,
)
from cnn_jax.pretrained.files.stored import StoredArray, Weights, check_count

_MAX_HEADER = 2**24
"""In bytes: more than any model's names can fill."""

_DTYPES = {
    "BF16": "bfloat16",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "I64": "int64",
    "I32": "int32",
    "I8": "int8",
    "U8": "uint8",
}


def describe_safetensors(path: pathlib.Path) -> OwnWeights | None:
    """Returns what a file of ours says of its weights; None for any other file.

    Raises:
      FileError: As `open_safetensors`.
    """
    with _opened(path) as file:
        text = (file.metadata() or {}).get(METADATA_NAME)
    return None if text is None else parse_metadata(text, str(path))


@contextlib.contextmanager
def open_safetensors(path: pathlib.Path) -> Iterator[Weights]:
    """Opens a file and describes its arrays.

    The `safetensors` package refuses headers that are longer than the file, and arrays
    that overlap, leave gaps or reach beyond the end, before it allocates anything for
    them.

    Raises:
      FileError: If the file is no safetensors file, or is damaged.
    """
    own = describe_safetensors(path)
    with _opened(path) as file:
        with _reading(path):
            names = file.keys()
            check_count(names, path)
            arrays = {name: _describe(path, file, name) for name in names}
        yield Weights(without_prefixes(arrays), provenance_of(path, own))


def _describe(path: pathlib.Path, file: Any, name: str) -> StoredArray:
    described = file.get_slice(name)
    dtype = described.get_dtype()

    def read() -> np.ndarray:
        with _reading(path):
            array: np.ndarray = file.get_tensor(name)
            return array

    return StoredArray(
        shape=tuple(described.get_shape()), dtype=_DTYPES.get(dtype, dtype), read=read
    )


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
    import safetensors

    with _reading(path):
        with open_regular(path) as file:
            (length,) = struct.unpack("<Q", file.read(8))
        if length > _MAX_HEADER:
            raise ValueError(
                f"a header of {length:,} bytes, expected at most {_MAX_HEADER:,}"
            )
        opened = safetensors.safe_open(path, framework="np")
    with opened:
        yield opened


def _reading(path: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    return reading(
        path,
        "what safetensors writes; fetch it again",
        found="a damaged safetensors file",
    )
