"""Files, on a disk or behind `gs://`: durable on the one, plain on the other.

Paths are `epath.Path`. What is local only (syncing, renaming a directory) does nothing
or is not called elsewhere: an object store has neither directories nor a page cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import stat
from collections.abc import Iterator

from etils import epath

from cnn_jax import files
from cnn_jax.files import is_local as is_local


def as_path(directory: str | os.PathLike[str]) -> epath.Path:
    """Returns an absolute path; `gs://` stays as it is.

    Raises:
      ValueError: If it is empty, or begins with `foo://` that nothing here serves.
    """
    text = os.fspath(directory)
    if not text.strip():
        raise ValueError(f"directory: got {text!r}, expected its name.")
    if is_local(text):
        text = str(pathlib.Path(text).expanduser().absolute())
    try:
        return epath.Path(text)
    except KeyError as error:
        raise ValueError(
            f"directory: got {text!r}, expected a local directory, or one that begins "
            "with gs://, s3:// or az://."
        ) from error


def all_files(directory: epath.Path, prefix: str = "") -> Iterator[str]:
    """Yields the '/'-joined names of all files below a directory."""
    for path in directory.iterdir():
        name = prefix + path.name
        if path.is_dir():
            yield from all_files(path, name + "/")
        else:
            yield name


def special_files(directory: epath.Path) -> Iterator[str]:
    """Yields the paths of pipes, sockets and devices in a local directory."""
    if not is_local(directory):
        return
    for parent, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(parent, name)
            # A link to nothing is no danger; what lacks then is noticed.
            with contextlib.suppress(OSError):
                mode = os.stat(path).st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    yield path


def read_bytes(path: epath.Path, *, max_bytes: int) -> bytes:
    """Returns a file's content.

    Raises:
      FileError: If it is longer, or a local file that is no regular one.
    """
    if is_local(path):
        return files.read_bytes(path, max_bytes=max_bytes)
    content: bytes = path.read_bytes()
    if len(content) > max_bytes:
        raise files.FileError(f"{path}: got more than {max_bytes:,} bytes.")
    return content


def sha256(path: epath.Path, num_bytes: int) -> str:
    """Returns the sha256 of a file's content, in hexadecimal.

    Args:
      path: The file.
      num_bytes: Its length. Some files of the system end never, and say that they are
        empty.

    Raises:
      FileError: If it is longer, or a local file that is no regular one.
    """
    digest = hashlib.sha256()
    with files.open_regular(path) if is_local(path) else path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
            num_bytes -= len(piece)
            if num_bytes < 0:
                raise files.FileError(f"{path}: got more bytes than it says.")
    return digest.hexdigest()


def size(path: epath.Path) -> int:
    """Returns the number of bytes in a file; raises as `sha256`."""
    if is_local(path):
        files.check_regular(path)
    return path.stat().length


def write_atomically(path: epath.Path, content: bytes) -> None:
    """Writes a file atomically and durably.

    A local file is written under another name, synced and renamed; an object appears
    whole, as object stores guarantee.
    """
    if not is_local(path):
        path.write_bytes(content)
        return
    with files.whole_file(path) as file:
        file.write(content)


def sync_tree(directory: epath.Path) -> None:
    """Syncs all files and directories below and at a local directory to the disk."""
    if is_local(directory):
        for parent, _, names in os.walk(directory):
            for name in names:
                sync(os.path.join(parent, name))
            sync(parent)


def sync(path: str | os.PathLike[str]) -> None:
    """Syncs a local file's content, or a directory's list of names, to the disk."""
    if is_local(path):
        files.sync(path)


def rename(source: epath.Path, target: epath.Path) -> None:
    """Renames a local directory, for good when this returns."""
    os.rename(source, target)
    sync(target.parent)


def discard(directory: epath.Path) -> None:
    """Removes a directory if it is there and can be removed."""
    with contextlib.suppress(OSError):
        directory.rmtree(missing_ok=True)
