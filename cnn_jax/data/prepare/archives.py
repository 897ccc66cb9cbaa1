"""Archives read as streams: nothing is extracted, and all content is validated."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import math
import pathlib
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING

import numpy as np

from cnn_jax.files import FileError, open_regular, reading
from cnn_jax.messages import printable

if TYPE_CHECKING:
    from typing_extensions import Buffer  # `collections.abc` has it from 3.12 on

_CHUNK = 2**20
_MOST_HEADER = 2**20  # a long name, or pax headers
_MOST_MEMBERS = 2**20  # ImageNet's largest archive has 50,000


class ArchiveError(FileError):
    """An archive that is damaged, or not what it is called."""


@contextlib.contextmanager
def open_archive(path: pathlib.Path, expected: str) -> Iterator[IO[bytes]]:
    """Opens an archive, and turns whatever is raised over it into an `ArchiveError`."""
    try:
        with open_regular(path) as file, reading(path, expected):
            yield file
    except ArchiveError:
        raise
    except FileError as error:
        raise ArchiveError(str(error)) from error
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be read: {error.strerror}.") from error


def sha256_of(path: pathlib.Path, advance: Callable[[int], None]) -> str:
    """Returns a file's sha256; calls `advance` with the bytes read since the last."""
    total = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
            advance(len(chunk))
    return total.hexdigest()


def read_member(path: pathlib.Path, name: str, *, most: int) -> bytes:
    """Reads one file of a gzipped tar archive by the end of its path.

    Args:
      path: The archive.
      name: The last part of the member's path.
      most: The most bytes that the archive may hold, decompressed.

    Raises:
      ArchiveError: If the archive is damaged, or has no such regular file, or is
        larger.
    """
    with open_archive(path, "a gzipped tar archive") as compressed:
        for member, file in _regular_members(path, compressed, most):
            if pathlib.PurePosixPath(member.name).name == name:
                return file.read()
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
    with open_archive(path, "an uncompressed tar archive") as file:
        window = Window(file, offset, size)
        with tarfile.open(fileobj=window, mode="r:") as archive:
            for member in _members(path, archive):
                if member.isdir():
                    continue
                if not _is_plain(member) or not member.name.lower().endswith(suffix):
                    raise ArchiveError(
                        f"{path}: got {member.name!r} in it, expected regular "
                        f"files that end with {suffix}."
                    )
                if printable(member.name) != member.name:
                    raise ArchiveError(
                        f"{path}: got a member called {member.name!r}, expected "
                        "printable names in UTF-8."
                    )
                start = offset + member.offset_data
                found.append((member.name, start, member.size))
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
    with (
        open_archive(path, "a gzipped idx file") as compressed,
        gzip.GzipFile(fileobj=compressed, mode="rb") as file,
    ):
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
        # Reading one byte more than announced shows whether the file ends there.
        content = file.read(size + 1)
    if len(content) != size:
        raise ArchiveError(
            f"{path}: got {'more' if len(content) > size else len(content)} bytes, "
            f"expected the {size} that its header announces."
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


class Window(io.RawIOBase):
    """A part of a file as a file, so that an archive in an archive can be read."""

    def __init__(self, file: IO[bytes], offset: int, size: int | None):
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

    def read(self, size: int = -1) -> bytes:
        """Reads what a header may have; tarfile reads no more than those here."""
        if not 0 <= size <= _MOST_HEADER:
            raise tarfile.ReadError(f"it announces {size:,} bytes of headers")
        return super().read(size)

    def readinto(self, buffer: Buffer) -> int:
        """Reads up to the window's end."""
        self._file.seek(self._offset + self._position)
        left = max(0, self._size - self._position)
        view = memoryview(buffer)
        content = self._file.read(min(len(view), left))
        view[: len(content)] = content
        self._position += len(content)
        return len(content)


class _Limited:
    """A stream that fails, rather than ends, after so many bytes.

    A few megabytes of gzip decompress to gigabytes, which tarfile would hold in memory
    where they pass for headers, and otherwise skip at a cost.
    """

    def __init__(self, path: pathlib.Path, file: io.BufferedIOBase, most: int):
        self._path, self._file, self._most, self._left = path, file, most, most

    def read(self, size: int) -> bytes:
        content = self._file.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise ArchiveError(
                f"{self._path}: got more than {self._most:,} bytes in it, "
                "decompressed, expected no more."
            )
        return content


def _is_plain(member: tarfile.TarInfo) -> bool:
    # The bytes of a sparse file are not contiguous.
    return member.isreg() and not member.issparse()


def _members(path: pathlib.Path, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yields the members of an archive, of which tarfile keeps every one."""
    for number, member in enumerate(archive):
        # tarfile accepts a negative size, would read everything for it, and go back.
        if member.size < 0:
            raise ArchiveError(
                f"{path}: got {member.size:,} bytes in {printable(member.name)}, "
                "expected none or more."
            )
        if number >= _MOST_MEMBERS:
            raise ArchiveError(
                f"{path}: got more than {_MOST_MEMBERS:,} members, expected no more."
            )
        yield member


def _regular_members(
    path: pathlib.Path, compressed: IO[bytes], most: int
) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """Yields what may be read: no links, no devices, nothing outside."""
    with (
        gzip.GzipFile(fileobj=compressed, mode="rb") as file,
        tarfile.open(  # type: ignore[call-overload]  # that it reads is enough
            fileobj=_Limited(path, file, most), mode="r|"
        ) as archive,
    ):
        for member in _members(path, archive):
            if member.size > most:
                raise ArchiveError(
                    f"{path}: got {member.size:,} bytes in {printable(member.name)}, "
                    f"expected no more than {most:,}."
                )
            parts = pathlib.PurePosixPath(member.name).parts
            if member.name.startswith("/") or ".." in parts:
                raise ArchiveError(
                    f"{path}: got a member called {member.name!r}, expected names "
                    "inside the archive."
                )
            if _is_plain(member):
                yield member, archive.extractfile(member)
