"""Arrays and PyTorch tensors out of memory, such as `module.state_dict()`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

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

# PyTorch's wrappers for parallel, averaged and compiled modules.
_PREFIXES = ("module.", "_orig_mod.")

_COUNTERS = ("n_averaged",)


def weights_of(mapping: Mapping[str, Any]) -> Weights:
    """Describes the arrays of a state dict, or of a checkpoint that has one inside.

    Args:
      mapping: Names to arrays or tensors. Checkpoints with the state dict under
        `state_dict`, `model` or the like are opened, averaged weights preferred; what
        PyTorch's wrappers put in front of every name is removed.
    """
    parts = []
    while part := next(
        (name for name in _PARTS if isinstance(mapping.get(name), Mapping)), None
    ):
        parts.append(part)
        mapping = mapping[part]
    ignored = tuple(name for name in mapping if name in _COUNTERS)
    arrays = {
        str(name): _describe(value)
        for name, value in mapping.items()
        if name not in _COUNTERS
    }
    return Weights(
        without_prefixes(arrays),
        Provenance("a mapping", part="/".join(parts)),
        ignored,
    )


def without_prefixes(arrays: Mapping[str, Any]) -> Mapping[str, Any]:
    """Removes what PyTorch's wrappers put in front of every name."""
    for prefix in _PREFIXES:
        if arrays and all(name.startswith(prefix) for name in arrays):
            shorter = {name.removeprefix(prefix): arrays[name] for name in arrays}
            return without_prefixes(shorter)
    return arrays


def _describe(value: Any) -> StoredArray:
    if hasattr(value, "detach"):
        return StoredArray(
            shape=tuple(value.shape),
            dtype=str(value.dtype).removeprefix("torch."),
            read=lambda: _from_tensor(value),
        )
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        value = np.asarray(value)
    return StoredArray(tuple(value.shape), str(value.dtype), lambda: np.asarray(value))


def _from_tensor(tensor: Any) -> np.ndarray:
    tensor = tensor.detach().cpu()
    # NumPy has no bfloat16 that PyTorch could convert to.
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
