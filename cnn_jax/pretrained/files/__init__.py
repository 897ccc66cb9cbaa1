"""Readers of arrays by name, without PyTorch and without running code from a file.

mappings.py           arrays and tensors in memory
safetensors_files.py  `.safetensors`
npz_files.py          `.npz`
keras_files.py        `.weights.h5` and `.h5`; needs the extra `keras-files`
torch_files.py        `.pth`; needs the extra `torch`
own_checkpoints.py    directories that `cnn-jax convert` or a training run wrote
own_weights.py        what such directories, and files that `convert` wrote, say
hub.py                `hf-hub:OWNER/NAME`; needs the extra `hub`
package.py            `package:NAME`, the weight file of an installed package
published.py          what is known of weights by where they come from
published_files.py    how images become the input of torchvision's and timm's files
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from cnn_jax.pretrained.files import hub, package, published
from cnn_jax.pretrained.files.keras_files import open_keras
from cnn_jax.pretrained.files.mappings import weights_of
from cnn_jax.pretrained.files.npz_files import describe_npz, open_npz
from cnn_jax.pretrained.files.own_checkpoints import describe_directory, open_own
from cnn_jax.pretrained.files.own_weights import OwnWeights
from cnn_jax.pretrained.files.safetensors_files import (
    describe_safetensors,
    open_safetensors,
)
from cnn_jax.pretrained.files.stored import (
    FLOATS,
    Provenance,
    StoredArray,
    Weights,
)
from cnn_jax.pretrained.files.torch_files import open_torch

__all__ = [
    "FLOATS",
    "OwnWeights",
    "Provenance",
    "StoredArray",
    "Weights",
    "check_exists",
    "describe_own",
    "open_weights",
]

_READERS = {
    ".safetensors": open_safetensors,
    ".npz": open_npz,
    ".h5": open_keras,
    ".hdf5": open_keras,
    ".pth": open_torch,
    ".pt": open_torch,
    ".bin": open_torch,
    ".tar": open_torch,
}

_DESCRIBERS = {".safetensors": describe_safetensors, ".npz": describe_npz}
"""Of the files that `cnn-jax convert` writes."""


def describe_own(source: object) -> OwnWeights | None:
    """Returns what weights of ours say of their model; None for all other weights.

    Args:
      source: What `load_pretrained` takes.

    Raises:
      FileNotFoundError: If it is a directory without a checkpoint, or a package that is
        not installed.
      ValueError: If it is another checkpoint, or is damaged.
    """
    if not isinstance(source, str | os.PathLike):
        return None
    path = _local_path(source)
    if path.is_dir():
        return describe_directory(path)
    if path.suffix in _DESCRIBERS and path.exists():
        return _DESCRIBERS[path.suffix](path)
    return None


def check_exists(source: str | os.PathLike[str]) -> None:
    """Raises FileNotFoundError for a path of nothing; names on the Hub are none."""
    is_name = isinstance(source, str) and source.startswith(hub.PREFIX)
    if not is_name and not _local_path(source).exists():
        raise FileNotFoundError(f"{source}: got no such file of weights.")


@contextlib.contextmanager
def open_weights(
    source: str | os.PathLike[str] | Mapping[str, Any],
) -> Iterator[Weights]:
    """Opens a file, a checkpoint, a name on the Hub or of a package, or a state dict.

    What it describes can be read until the context ends.

    Args:
      source: See `load_pretrained`.

    Raises:
      FileNotFoundError: If there is no such file.
      ImportError: If what reads such a file is not installed.
      ValueError: If the file is of another kind, or is damaged.
    """
    if isinstance(source, Mapping):
        yield weights_of(source)
        return
    if isinstance(source, str) and source.startswith(hub.PREFIX):
        provenance = published.on_hub(hub.fetch(source))
        assert provenance.file is not None  # what was fetched is one
        with open_safetensors(provenance.file) as weights:
            # A repository may have a file that `cnn-jax convert` wrote.
            said = provenance.preprocessing or weights.provenance.preprocessing
            yield dataclasses.replace(
                weights,
                provenance=dataclasses.replace(provenance, preprocessing=said),
            )
        return
    check_exists(source)
    path = _local_path(source)
    if not path.is_dir() and path.suffix not in _READERS:
        raise ValueError(
            f"{path}: got a file that ends in {path.suffix!r}, expected one of "
            f"{', '.join(_READERS)}, or a directory that cnn-jax convert or a training "
            "run wrote."
        )
    reader = open_own if path.is_dir() else _READERS[path.suffix]
    with reader(path) as weights:
        if package.is_name(source):
            found = published.in_package(source, weights.provenance)
        else:
            found = published.in_file(weights.provenance)
        yield dataclasses.replace(weights, provenance=found)


def _local_path(source: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path of a file or directory, or of the file in a package."""
    if package.is_name(source):
        return package.find(source, _READERS)
    return pathlib.Path(source)
