"""Archives read as streams: nothing is extracted, and nothing in them is trusted."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import pathlib
import tarfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np

_CHUNK = 2**20


class ArchiveError(ValueError):
    """An archive that is damaged, or not what it is called."""


def sha256_of(path: pathlib.Path, advance: Callable[[int], None]) -> str:
    """Returns a file's sha256; calls `advance` with the bytes read since the last."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
            advance(len(chunk))
    return total.hexdigest()


def read_member(path: pathlib.Path, name: str, *, most: int) -> bytes:
    """Reads one file of a tar archive, compressed or not, by the end of its path.

    Args:
      path: The archive.
      name: The last part of the member's path.
      most: The most bytes it may hold.

    Raises:
      ArchiveError: If the archive is damaged, or has no such regular file, or it is
        larger.
    """
    for member, file in _regular_members(path):
        if pathlib.PurePosixPath(member.name).name == name:
            return _read(path, member, file, most)
    raise ArchiveError(f"{path}: expected a file called {name} in it, found none.")


def index_members(
    path: pathlib.Path, *, suffix: str, offset: int = 0, size: int | None = None
) -> list[tuple[str, int, int]]:
    """Lists the files of an uncompressed tar archive without reading them.

    Args:
      path: The archive, or the file that holds it.
      suffix: What the names must end with, in any case.
      offset: Where in the file the archive begins.
      size: How many bytes it has; the rest of the file when None.

    Returns:
      `(name, offset in the file, size)` of each member.

    Raises:
      ArchiveError: If the archive is damaged, or a member is no regular file with such
        a name.
    """
    found = []
    with open(path, "rb") as file:
        window = Window(file, offset, size)
        try:
            with tarfile.open(fileobj=window, mode="r:") as archive:
                for member in archive:
                    if member.isdir():
                        continue
                    if not member.isreg() or not member.name.lower().endswith(suffix):
                        raise ArchiveError(
                            f"{path}: got {member.name!r} in it, expected regular "
                            f"files that end with {suffix}."
                        )
                    start = offset + member.offset_data
                    found.append((member.name, start, member.size))
        except tarfile.TarError as error:
            raise ArchiveError(f"{path}: the archive is damaged: {error}.") from error
    if not found:
        raise ArchiveError(f"{path}: the archive is empty.")
    return found


def read_idx(path: pathlib.Path, *, rank: int, most: int) -> np.ndarray:
    """Reads a gzipped idx file, LeCun's format, of unsigned bytes.

    Args:
      path: The file.
      rank: How many dimensions it must have.
      most: The most bytes that it may hold, decompressed.

    Raises:
      ArchiveError: If the file is damaged or holds something else.
    """
    try:
        with gzip.open(path, "rb") as file:
            header = file.read(4 + 4 * rank)
            if header[:4] != bytes([0, 0, 8, rank]) or len(header) < 4 + 4 * rank:
                raise ArchiveError(
                    f"{path}: expected an idx file of bytes with {rank} dimension(s), "
                    f"got one that begins with {header[:4]!r}."
                )
            shape = tuple(int(n) for n in np.frombuffer(header, ">u4", rank, 4))
            size = math.prod(shape)
            if size > most:
                raise ArchiveError(
                    f"{path}: got the shape {shape} in its header, expected no more "
                    f"than {most:,} bytes."
                )
            # One byte more than announced tells whether the file ends there.
            content = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ArchiveError(f"{path}: the file is damaged: {error}.") from error
    if len(content) != size:
        raise ArchiveError(
            f"{path}: got {'more' if len(content) > size else len(content)} bytes, "
            f"expected the {size} that its header announces."
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


class Window(io.RawIOBase):
    """A part of a file as a file, so that an archive in an archive can be read."""

    def __init__(self, file: io.BufferedReader, offset: int, size: int | None):
        super().__init__()
        end = file.seek(0, io.SEEK_END)
        self._file, self._offset = file, offset
        self._size = end - offset if size is None else size
        self._position = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Returns the position in the window."""
        return self._position

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a position in the window."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        self._position = start[whence] + position
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        """Reads up to the window's end."""
        self._file.seek(self._offset + self._position)
        left = max(0, self._size - self._position)
        content = self._file.read(min(len(buffer), left))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def _regular_members(
    path: pathlib.Path,
) -> Iterator[tuple[tarfile.TarInfo, io.BufferedReader]]:
    """Yields what may be read: no links, no devices, nothing outside."""
    try:
        with tarfile.open(path, mode="r|*") as archive:
            for member in archive:
                parts = pathlib.PurePosixPath(member.name).parts
                if member.name.startswith("/") or ".." in parts:
                    raise ArchiveError(
                        f"{path}: got a member called {member.name!r}, expected names "
                        "inside the archive."
                    )
                if member.isreg():
                    yield member, archive.extractfile(member)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ArchiveError(f"{path}: the archive is damaged: {error}.") from error


def _read(
    path: pathlib.Path, member: tarfile.TarInfo, file: io.BufferedReader, most: int
) -> bytes:
    if member.size > most:
        raise ArchiveError(
            f"{path}: got {member.size:,} bytes in {member.name}, expected no more "
            f"than {most:,}."
        )
    try:
        return file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ArchiveError(f"{path}: {member.name} is damaged: {error}.") from error
