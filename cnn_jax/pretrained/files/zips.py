"""Zip files that are what they say: the containers of `.npz` and `.pth`."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator
from typing import IO, Any

from cnn_jax.files import open_regular

_MAX_DIRECTORY = 2**22
"""In bytes: more than the names of `MAX_ARRAYS` fill."""

_MAX_END = 2**17
"""In bytes: more than the comment behind the directory may have."""

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The methods of NumPy. Others' decoders take as much memory as a file says."""

_LOCAL_HEADER = 30
"""The bytes before a member's name and content, at least."""


@contextlib.contextmanager
def open_zip(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    """Opens a zip file whose members are as large as the file can hold.

    A compressed member may say that it is larger. Nothing of it is read here.

    Raises:
      ValueError: If the list of members is longer than 4 MiB, if two have one name or
        share bytes of the file, or if one is compressed in another way than NumPy does.
      OSError, zipfile.BadZipFile, ...: Whatever `zipfile` raises.
    """
    with (
        open_regular(path) as file,
        zipfile.ZipFile(_BoundedReads(file)) as archive,
    ):
        _check_members(archive)
        yield archive


def _check_members(archive: zipfile.ZipFile) -> None:
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    claimed = sum(entry.compress_size for entry in entries)
    if claimed > archive.start_dir:
        raise ValueError(f"its parts claim {claimed:,} bytes of {archive.start_dir:,}")
    # PyTorch takes names for equal that differ in their case.
    if len({entry.filename.lower() for entry in entries}) < len(entries):
        raise ValueError("two of its parts have one name")
    ends = [entry.header_offset for entry in entries[1:]] + [archive.start_dir]
    for entry, end in zip(entries, ends, strict=True):
        if entry.compress_type not in _METHODS:
            raise ValueError(
                f"{entry.filename} is compressed by method {entry.compress_type}, "
                "expected deflate or none"
            )
        if entry.compress_type == zipfile.ZIP_STORED and (
            entry.compress_size != entry.file_size
        ):
            raise ValueError(f"{entry.filename} claims a size that it has not")
        if entry.header_offset + _LOCAL_HEADER + entry.compress_size > end:
            raise ValueError(f"{entry.filename} shares its bytes with another part")


class _BoundedReads:
    """A file that is not read in pieces longer than a directory may be.

    `zipfile` reads the directory whole, however long the file says that it is.
    """

    def __init__(self, file: IO[bytes]):
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if size > _MAX_DIRECTORY:
            raise ValueError(f"a list of parts that takes {size:,} bytes")
        # All that is left is asked for at the file's end, of at most 64 KiB.
        return self._file.read(_MAX_END if size < 0 else size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
