"""Local files that are written whole or not at all, and values as JSON knows them."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import numbers
import os
import pathlib
import secrets
from collections.abc import Iterator, Mapping
from typing import IO, Any


@contextlib.contextmanager
def whole_file(
    path: str | os.PathLike[str], *, shared: bool = False, replace: bool = True
) -> Iterator[IO[bytes]]:
    """Opens a file that takes its place when the block ends, complete and synced.

    Until then it is another file in the same directory. So whoever reads the place,
    after a kill or a power cut too, finds the new file or what was there before.

    Args:
      path: The place, in a directory that exists.
      shared: Whether other processes may write it at the same time. Each then has an
        unfinished file with a name of its own; otherwise there is one, `NAME.new`, and
        what a killed process left there is overwritten.
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
            with open(unfinished, "xb" if shared else "wb") as file:
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


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text as a whole file in UTF-8, or leaves the old one.

    Raises:
      OSError: If it cannot be written; it names the file.
    """
    with whole_file(path) as file:
        file.write(text.encode("utf-8"))


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
