"""`.pth` files: pickles, read by PyTorch under `weights_only=True`."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import pathlib
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping

from cnn_jax.pretrained.files.mappings import weights_of
from cnn_jax.pretrained.files.stored import Provenance, Weights

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
      ValueError: If the file is damaged or holds more than arrays.
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
    is_zip = zipfile.is_zipfile(path)
    try:
        if is_zip:
            _check_sizes(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about PyTorch's own plans
            tree = torch.load(path, weights_only=True, map_location="cpu", mmap=is_zip)
    except Exception as error:  # whatever a file makes PyTorch raise
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{path}: got a file that PyTorch does not read under weights_only=True "
            f"({reason}): it is damaged, or holds more than arrays, which could run "
            "any code. Save the state dict alone where the file comes from, as "
            ".safetensors."
        ) from error
    if not isinstance(tree, Mapping):
        raise ValueError(
            f"{path}: got a {type(tree).__name__}, expected a mapping from names to "
            "tensors; save module.state_dict()."
        )
    weights = weights_of(tree)
    part = weights.provenance.part
    yield dataclasses.replace(weights, provenance=Provenance(str(path), path, part))


def _check_sizes(path: pathlib.Path) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("its parts are compressed")
    claimed, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if claimed > size:
        raise ValueError(f"its parts claim {claimed} bytes of {size}")
