"""Local files, read within bounds and written whole; values as JSON knows them.

A file that somebody names may be anything: a pipe that never ends, a device, a link, or
a damaged file that makes a library raise whatever it runs into. `open_regular`,
`read_bytes`, `read_json` and `reading` are how such a file is read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import math
import numbers
import os
import pathlib
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from cnn_jax.messages import printable

MAX_JSON_BYTES = 2**26
"""The longest JSON file that is read: more than any of this project's."""

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class FileError(ValueError):
    """A file that is no regular file, longer than its format allows, or damaged."""


def is_local(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is on a file system of this machine, unlike `gs://...`."""
    return "://" not in os.fspath(path)


def check_regular(
    path: str | os.PathLike[str], *, max_bytes: int | None = None
) -> None:
    """Checks a file before a library opens it by its path.

    Args:
      path: A local file; a link to one will do.
      max_bytes: The most bytes that it may have; None for any number.

    Raises:
      FileError: If it is a pipe, a socket or a device, or is longer.
      OSError: If it is a directory, or cannot be found.
    """
    _check_status(path, os.stat(path), max_bytes)


def open_regular(
    path: str | os.PathLike[str], *, max_bytes: int | None = None
) -> io.BufferedReader:
    """Opens a regular file for reading bytes; takes and raises as `check_regular`."""
    check_regular(path, max_bytes=max_bytes)  # to open a device can already do things
    # Without O_NONBLOCK, a pipe that takes the file's place by now would be waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    file = os.fdopen(descriptor, "rb")
    try:
        _check_status(path, os.fstat(file.fileno()), max_bytes)
    except BaseException:
        file.close()
        raise
    return file


def read_bytes(path: str | os.PathLike[str], *, max_bytes: int) -> bytes:
    """Returns a regular file's content; takes and raises as `check_regular`."""
    with naming(path), open_regular(path, max_bytes=max_bytes) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:  # it grew, or is one that does not say its length
        raise _too_long(path, len(content), max_bytes)
    return content


def sha256(path: str | os.PathLike[str]) -> str:
    """Returns a regular file's sha256, in hexadecimal; raises as `open_regular`."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(
    path: str | os.PathLike[str], *, max_bytes: int = MAX_JSON_BYTES
) -> dict[str, Any]:
    """Returns the JSON object that a file holds.

    Raises:
      FileError: If it holds anything else, or as `check_regular`.
      OSError: If it cannot be read; it names the file.
    """
    content = read_bytes(path, max_bytes=max_bytes)
    with reading(path, "a JSON object"):
        found = json.loads(content)
    if not isinstance(found, dict):
        raise FileError(f"{path}: got JSON of another kind, expected an object.")
    return found


@contextlib.contextmanager
def reading(
    path: str | os.PathLike[str], expected: str, *, found: str = "a damaged file"
) -> Iterator[None]:
    """Turns whatever a library raises over a damaged file into a `FileError`.

    An error of the system (no such file, no permission, a failing disk), a missing
    package and a `FileError` itself pass as they are.

    Args:
      path: The file, as the error names it.
      expected: What the file should be: `"a NumPy .npz file"`.
      found: What the error calls the file.

    Raises:
      FileError: `PATH: got a damaged file (REASON); expected EXPECTED.`
    """
    try:
        yield
    except (FileError, ImportError):
        raise
    except Exception as error:
        # An invalid argument, such as a position before the beginning, is the file's.
        is_argument = isinstance(error, OSError) and error.errno == errno.EINVAL
        if isinstance(error, OSError) and error.errno is not None and not is_argument:
            with naming(path):
                raise
        # Of some errors the text alone, such as KeyError's name, says nothing.
        text = printable(str(error).strip().partition("\n")[0])[:200]
        kind = type(error).__name__
        reason = f"{kind}: {text}" if text else kind
        raise FileError(
            f"{path}: got {found} ({reason}); expected {expected}."
        ) from error


@contextlib.contextmanager
def whole_file(
    path: str | os.PathLike[str], *, shared: bool = False, replace: bool = True
) -> Iterator[IO[bytes]]:
    """Opens a file that takes its place when the block ends, complete and synced.

    Until then it is another file in the same directory. So whoever reads the place,
    after a kill or a power cut too, finds the new file or what was there before. What
    a link at the place points to is never written: the link is replaced.

    Args:
      path: The place, in a directory that exists.
      shared: Whether other processes may write it at the same time. Each then has an
        unfinished file with a name of its own; otherwise there is one, `NAME.new`, and
        what a killed process left there is removed.
      replace: Whether it replaces a file that is there.

    Yields:
      The file, open for writing bytes.

    Raises:
      FileExistsError: If there is a file by then and it is not to be replaced.
      OSError: If it cannot be written; it names the file. What was there stays, and
        the unfinished file is removed.
    """
    path = pathlib.Path(path)
    name = f".{path.name}.{secrets.token_hex(8)}" if shared else path.name
    unfinished = path.with_name(f"{name}.new")
    try:
        with naming(path):
            # A link of this name would have its target overwritten.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished)
            with open(unfinished, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if replace:
                os.replace(unfinished, path)
            else:
                _place_beside(unfinished, path)
            sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)  # what there is of it takes what space there is


def open_unlinked(path: str | os.PathLike[str], flags: int) -> int:
    """Opens a file for writing, but none that has another name as well.

    It is an opener, `open(path, "ab", opener=open_unlinked)`: what is written into a
    directory of the project's own must not end up in a file somewhere else.

    Returns:
      The file's descriptor.

    Raises:
      OSError: If the path is a link, hard or symbolic, or no regular file, or cannot be
        opened.
    """
    problem = OSError(
        errno.EMLINK, "a link, or no regular file: remove it", os.fspath(path)
    )
    # The content goes only when it is known whose it is.
    try:
        descriptor = os.open(
            path, (flags & ~os.O_TRUNC) | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666
        )
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a pipe or a socket
            raise problem from error
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise problem
        if flags & os.O_TRUNC:
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text as a whole file in UTF-8, or leaves the old one.

    What UTF-8 cannot hold, bytes of a file's name that are none, is written escaped.

    Raises:
      OSError: If it cannot be written; it names the file.
    """
    with whole_file(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def write_output(
    path: str | os.PathLike[str],
    text: str,
    *,
    inputs: Iterable[str | os.PathLike[str]] = (),
) -> None:
    """Writes a text to what a user named as output, making its directory if need be.

    A regular file is written whole; a device or a pipe, such as `/dev/stdout`, takes
    the text as it is. What a link points to stays: the link is replaced.

    Args:
      path: The output.
      text: Its content.
      inputs: What was read, as for `check_output`.

    Raises:
      FileError: If it is one of the inputs.
      OSError: If it cannot be written; it names the file.
    """
    path = pathlib.Path(path)
    check_output(path, inputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        with naming(path), open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        return
    write_text(path, text)


def check_output(
    path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]]
) -> None:
    """Checks that writing a file would not overwrite what was read.

    Args:
      path: What is to be written.
      inputs: Files, or directories whose files were read.

    Raises:
      FileError: If there is such a file and it is an input, by whatever name.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return
    for each in map(pathlib.Path, inputs):
        if not each.exists():  # a name on the Hub
            continue
        is_inside = each.is_dir() and each.resolve() in path.resolve().parents
        if is_inside or path.samefile(each):
            raise FileError(
                f"{path}: got an output that is an input as well ({each}); expected "
                "another place for it."
            )


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Has an error of the system say which file it is about."""
    try:
        yield
    except OSError as error:
        # One that a library raised with a sentence of its own has no number.
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def sync(path: str | os.PathLike[str]) -> None:
    """Has a file's content, or a directory's list of names, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_value(value: Any) -> Any:
    """Returns a value as JSON knows it: dataclasses as objects, NaN and inf as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return json_value(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(entry) for entry in value]
    if isinstance(value, str | bool | None):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if math.isfinite(value) else None


def _place_beside(unfinished: pathlib.Path, path: pathlib.Path) -> None:
    try:
        os.link(unfinished, path)  # unlike a rename, it replaces nothing
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.rename(unfinished, path)


def _check_status(
    path: str | os.PathLike[str], found: os.stat_result, max_bytes: int | None
) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(
            errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path)
        )
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise FileError(f"{path}: got {kind}, expected a regular file.")
    if max_bytes is not None and found.st_size > max_bytes:
        raise _too_long(path, found.st_size, max_bytes)


def _too_long(path: str | os.PathLike[str], size: int, max_bytes: int) -> FileError:
    return FileError(
        f"{path}: got {size:,} bytes or more, expected at most {max_bytes:,}."
    )
