"""`.pth` files: pickles, read by PyTorch under `weights_only=True`."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import pathlib
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from cnn_jax.files import FileError, open_regular, reading
from cnn_jax.pretrained.files import pickles
from cnn_jax.pretrained.files.mappings import weights_of
from cnn_jax.pretrained.files.stored import Provenance, Weights
from cnn_jax.pretrained.files.zips import open_zip

_VERSION = (2, 10)
"""Older versions run code out of files in spite of `weights_only` (CVE-2025-32434,
CVE-2026-24747)."""


@contextlib.contextmanager
def open_torch(path: pathlib.Path) -> Iterator[Weights]:
    """Reads a file with `torch.load(weights_only=True)` and describes its arrays.

    There is no other reader: what PyTorch does not read under `weights_only` could run
    any code. Files in PyTorch's zip format are mapped into memory and not read; those
    that compress or repeat what they hold, which PyTorch never does, are refused.

    Raises:
      ImportError: If PyTorch is not installed, or is older than 2.10.
      FileError: If the file is damaged, holds more than arrays, or claims to be larger
        than it is.
    """
    if importlib.util.find_spec("torch") is None:
        raise ImportError(
            f"{path}: got a pickle, which only PyTorch reads safely, and PyTorch is "
            "not installed: pip install 'cnn_jax[torch]' and convert the file once "
            "with cnn-jax convert; or get it as .safetensors."
        )
    import torch

    installed = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2]))
    if installed < _VERSION:
        raise ImportError(
            f"{path}: got PyTorch {torch.__version__}, expected at least 2.10, since "
            "older ones may run code out of the file; update it."
        )
    with _reading(path):
        is_zip = _check(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about PyTorch's own plans
            tree = torch.load(path, weights_only=True, map_location="cpu", mmap=is_zip)
    if not isinstance(tree, Mapping):
        raise FileError(
            f"{path}: got a {type(tree).__name__}, expected a mapping from names to "
            "tensors; save module.state_dict()."
        )
    with _reading(path):
        weights = weights_of(tree, str(path))
    part = weights.provenance.part
    yield dataclasses.replace(
        weights,
        arrays={
            name: dataclasses.replace(array, read=_guarded(path, array.read))
            for name, array in weights.arrays.items()
        },
        provenance=Provenance(str(path), path, part),
    )


def _reading(path: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    return reading(
        path,
        "arrays alone, since it is damaged or holds what could run any code: save the "
        "state dict where the file comes from, as .safetensors",
        found="a file that PyTorch does not read under weights_only=True",
    )


def _guarded(
    path: pathlib.Path, read: Callable[[], np.ndarray]
) -> Callable[[], np.ndarray]:
    def guarded() -> np.ndarray:
        with _reading(path):
            return read()

    return guarded


def _check(path: pathlib.Path) -> bool:
    """Checks what a file says of its sizes; returns whether it is a zip file.

    Raises:
      ValueError: If it is in neither of PyTorch's formats, compresses or repeats what
        it holds, claims more than it has, or as `pickles.follow`.
    """
    with open_regular(path) as file:
        start = file.read(pickles.MAX_BYTES)
    size = path.stat().st_size
    # PyTorch takes a file for a zip by its beginning, and Python by its end.
    if start.startswith(b"PK"):
        with open_zip(path) as archive:
            if archive.comment:
                raise ValueError("it has a comment")
            _check_archive(archive)
        return True
    if not start.startswith(b"\x80\x02"):
        raise ValueError("it is neither a zip file nor a pickle")
    # Three about the format, the state dict, and the keys of what follows.
    storages = pickles.follow(start, num_pickles=5)
    if sum(storages.values()) > size:
        raise ValueError(
            f"its parts claim {sum(storages.values()):,} bytes of {size:,}"
        )
    return False


def _check_archive(archive: zipfile.ZipFile) -> None:
    entries = {entry.filename: entry for entry in archive.infolist()}
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
        raise ValueError("its parts are compressed")
    found = [name for name in entries if name.lower().endswith("data.pkl")]
    if len(found) != 1:
        raise ValueError(f"it has {len(found)} parts called data.pkl")
    entry = entries[found[0]]
    if entry.file_size > pickles.MAX_BYTES:
        raise ValueError(f"its data.pkl has {entry.file_size:,} bytes")
    folder = found[0].removesuffix("data.pkl")
    for key, size in pickles.follow(archive.read(entry)).items():
        part = entries.get(f"{folder}data/{key}")
        if part is None or size > part.file_size:
            raise ValueError(f"its part {key} claims {size:,} bytes")
