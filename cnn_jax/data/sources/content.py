"""Fingerprints of the content of files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import IO, Any

from cnn_jax.files import is_local, open_regular

READ_UP_TO = 2**30
"""Files of together no more bytes than this are read whole."""

_CHUNK = 2**20


def hash_files(
    paths: Iterable[str | os.PathLike[str]], names: Iterable[str] = ()
) -> str:
    """Returns a sha256 over files' names, sizes and, up to 1 GiB in all, their bytes.

    Larger sets would take minutes to read before training could start; for them a
    change that keeps every size is not noticed.

    Args:
      paths: The files, in a fixed order, local or on `gs://`.
      names: What each is called; by default the last part of its path.

    Raises:
      FileError: If a local one is no regular file.
      OSError: If one cannot be read.
    """
    from etils import epath

    files = [epath.Path(path) for path in paths]
    names = list(names) or [file.name for file in files]
    sizes = [_size(file) for file in files]
    reads = sum(sizes) <= READ_UP_TO
    total = hashlib.sha256()
    for file, name, size in zip(files, names, sizes, strict=True):
        total.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
        if reads:
            with _open(file) as opened:
                while chunk := opened.read(_CHUNK):
                    total.update(chunk)
    return total.hexdigest()


def _size(path: Any) -> int:
    # epath also looks up a local file's owner: a minute for a million of them.
    return os.stat(path).st_size if is_local(path) else path.stat().length


def _open(path: Any) -> IO[bytes]:
    return open_regular(path) if is_local(path) else path.open("rb")
