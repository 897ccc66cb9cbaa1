"""Arrays and PyTorch tensors out of memory, such as `module.state_dict()`."""

from __future__ import annotations

import numbers
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from cnn_jax.files import FileError
from cnn_jax.pretrained.files.stored import Provenance, StoredArray, Weights

# Averaged weights come first: they are the ones that such runs are judged by.
_PARTS = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "state_dict",
    "model_state_dict",
    "model",
)

_MAX_PARTS = 8
"""The most mappings that a state dict may be within."""

# PyTorch's wrappers for parallel, averaged and compiled modules.
_PREFIXES = re.compile(r"(?:module\.|_orig_mod\.)*+")

_COUNTERS = ("n_averaged",)

_MAX_LISTED = 2**16
"""The most numbers that lists may stand for. Longer ones are no arrays."""


def weights_of(mapping: Mapping[str, Any], location: str = "a mapping") -> Weights:
    """Describes the arrays of a state dict, or of a checkpoint that has one inside.

    Args:
      mapping: Names to arrays or tensors. Checkpoints with the state dict under
        `state_dict`, `model` or the like are opened, averaged weights preferred; what
        PyTorch's wrappers put in front of every name is removed.
      location: What the mapping is, for `Provenance` and errors.

    Raises:
      FileError: If a state dict is inside of itself, or too deep; if a name is no text;
        as `check_names`.
    """
    parts = []
    while part := next(
        (name for name in _PARTS if isinstance(mapping.get(name), Mapping)), None
    ):
        parts.append(part)
        mapping = mapping[part]
        if len(parts) > _MAX_PARTS:
            raise FileError(
                f"{location}: got a state dict inside of {len(parts)} others "
                f"({'/'.join(parts)}), expected at most {_MAX_PARTS}."
            )
    for name in mapping:
        # The text of nested tuples can be longer than all memory.
        if not isinstance(name, str | int):
            raise FileError(
                f"{location}: got a name that is a {type(name).__name__}, expected "
                "text."
            )
    ignored = tuple(name for name in mapping if name in _COUNTERS)
    arrays = {
        str(name): _describe(value)
        for name, value in mapping.items()
        if name not in _COUNTERS
    }
    return Weights(
        without_prefixes(arrays), Provenance(location, part="/".join(parts)), ignored
    )


def without_prefixes(arrays: Mapping[str, Any]) -> Mapping[str, Any]:
    """Removes what PyTorch's wrappers put in front of every name."""
    common = os.path.commonprefix(list(arrays))  # noqa: RUF071 - names, not paths
    match = _PREFIXES.match(common)
    length = match.end() if match is not None else 0
    return {name[length:]: array for name, array in arrays.items()}


def _describe(value: Any) -> StoredArray:
    if hasattr(value, "detach"):
        return StoredArray(
            shape=tuple(value.shape),
            dtype=str(value.dtype).removeprefix("torch."),
            read=lambda: _from_tensor(value),
        )
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        if not _is_short(value):
            # Of no dtype that weights may have, so that it is never read.
            return StoredArray((), type(value).__name__, lambda: np.asarray(None))
        value = np.asarray(value)
    return StoredArray(tuple(value.shape), str(value.dtype), lambda: np.asarray(value))


def _is_short(value: Any) -> bool:
    """Returns whether a value is a number, or lists of not too many.

    Lists that hold each other stand for more numbers than memory has bytes, or for
    endlessly many.
    """
    ahead, num_seen = [value], 0
    while ahead:
        found = ahead.pop()
        num_seen += 1
        if num_seen > _MAX_LISTED:
            return False
        if isinstance(found, list | tuple):
            if len(ahead) + len(found) > _MAX_LISTED:
                return False
            ahead.extend(found)
        elif not isinstance(found, numbers.Number | np.generic | np.ndarray):
            return False
    return True


def _from_tensor(tensor: Any) -> np.ndarray:
    tensor = tensor.detach().cpu()
    # NumPy has no bfloat16 that PyTorch could convert to.
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
