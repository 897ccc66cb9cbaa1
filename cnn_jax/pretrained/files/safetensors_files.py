"""`.safetensors` files: a header of JSON, then the numbers."""

from __future__ import annotations

import contextlib
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

from cnn_jax.pretrained.files.mappings import without_prefixes
from cnn_jax.pretrained.files.own_weights import (
    METADATA_NAME,
    OwnWeights,
    parse_metadata,
    provenance_of,
)
from cnn_jax.pretrained.files.stored import StoredArray, Weights

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
      ValueError: As `open_safetensors`.
    """
    with _opened(path) as file:
        text = (file.metadata() or {}).get(METADATA_NAME)
    return None if text is None else parse_metadata(text, str(path))


@contextlib.contextmanager
def open_safetensors(path: pathlib.Path) -> Iterator[Weights]:
    """Opens a file and describes its arrays.

    The `safetensors` package refuses headers that are longer than the file or 100 MB,
    and arrays that overlap, leave gaps or reach beyond the end, before it allocates
    anything for them.

    Raises:
      ValueError: If the file is no safetensors file, or is damaged.
    """
    own = describe_safetensors(path)
    with _opened(path) as file:
        arrays = {}
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            described = file.get_slice(name)
            dtype = described.get_dtype()
            arrays[name] = StoredArray(
                shape=tuple(described.get_shape()),
                dtype=_DTYPES.get(dtype, dtype),
                read=functools.partial(file.get_tensor, name),
            )
        yield Weights(without_prefixes(arrays), provenance_of(path, own))


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
    import safetensors

    try:
        file = safetensors.safe_open(path, framework="np")
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path}: got a damaged safetensors file ({error}); fetch it again."
        ) from error
    with file:
        yield file
