"""Reading arrays by name, out of a file or out of memory, without PyTorch."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def read_arrays(source: str | os.PathLike | Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns every array of a safetensors file or of a state dict.

    Args:
      source: The path of a `.safetensors` file, or a mapping from names to arrays or to
        PyTorch tensors, such as `module.state_dict()`.

    Raises:
      FileNotFoundError: If there is no such file.
      ValueError: If the file is no safetensors file, or is damaged.
    """
    if isinstance(source, Mapping):
        return {str(name): _as_numpy(value) for name, value in source.items()}
    path = pathlib.Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: got no such file of weights.")
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path}: got a file that ends in {path.suffix!r}, expected .safetensors; "
            "convert it with the safetensors package, or pass its state dict."
        )
    import safetensors.numpy

    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path}: got a damaged safetensors file ({error}); fetch it again."
        ) from error


def _as_numpy(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        # NumPy has no bfloat16 for PyTorch to hand over.
        if str(value.dtype) == "torch.bfloat16":
            value = value.float()
    return np.asarray(value)
