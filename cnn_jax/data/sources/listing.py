"""Listing directories of images: the files that are read, and those left out.

Only what has no place in a dataset is left out without a warning: hidden files and
directories, what operating systems leave behind, and texts beside the images.
"""

from __future__ import annotations

import bisect
import collections
import errno
import os
import pathlib
from collections.abc import Iterator

from cnn_jax.data.host.decode import SUFFIXES

_LEFT_BEHIND = frozenset(
    [
        *("__macosx", "icon\r"),  # macOS
        *("thumbs.db", "ehthumbs.db", "desktop.ini"),  # Windows
        *("$recycle.bin", "system volume information"),
        *("@eadir", "#recycle", "lost+found"),  # file servers and Linux
        "__pycache__",
    ]
)
"""Names, in lower case, that are treated like hidden ones."""

_TEXTS = frozenset(
    [
        *(".csv", ".html", ".json", ".jsonl", ".log", ".md", ".tsv", ".txt", ".xml"),
        *(".yaml", ".yml"),
    ]
)
"""Of labels, annotations and notes, which are beside images on purpose."""

_MOST_KINDS, _MOST_EXAMPLES = 6, 3


class LeftOut:
    """Counts what is not read, by kind, with a few examples."""

    def __init__(self, root: pathlib.Path):
        self._root = root
        self._numbers: collections.Counter[tuple[str, str]] = collections.Counter()
        self._examples: dict[tuple[str, str], list[str]] = {}

    def add(self, path: str | os.PathLike[str], one: str, many: str) -> None:
        """Counts a path as `one` of a kind, of which there may be `many`."""
        name = os.fsencode(os.path.relpath(path, self._root))
        kind = one, many
        self._numbers[kind] += 1
        examples = self._examples.setdefault(kind, [])
        # The smallest ones, since directories are listed in any order.
        bisect.insort(examples, name.decode("utf-8", "backslashreplace"))
        del examples[_MOST_EXAMPLES:]

    def __str__(self) -> str:
        kinds = sorted(self._numbers, key=lambda kind: (-self._numbers[kind], kind))
        said = [self._describe(kind) for kind in kinds[:_MOST_KINDS]]
        rest = sum(self._numbers[kind] for kind in kinds[_MOST_KINDS:])
        return ", ".join(said + ([f"{rest:,} others"] if rest else []))

    def _describe(self, kind: tuple[str, str]) -> str:
        number, examples = self._numbers[kind], self._examples[kind]
        more = [] if number == len(examples) else ["..."]
        return f"{number:,} {kind[number > 1]} ({', '.join(examples + more)})"


def list_classes(path: pathlib.Path, left_out: LeftOut) -> list[pathlib.Path]:
    """Returns the directories in a directory, by name, links to some included.

    Left out are links to the directory itself or to one above, broken links, and images
    that are beside the directories.
    """
    above = _above(path)
    found = []
    for entry in _visible(os.fspath(path)):
        kind = _kind(entry)
        if kind == "broken link":
            left_out.add(entry.path, kind, "broken links")
        elif kind == "file" and entry.name.lower().endswith(SUFFIXES):
            left_out.add(
                entry.path,
                "image outside the directories of classes",
                "images outside the directories of classes",
            )
        elif kind == "directory":
            if _identity(entry.path) in above:
                _add_repeated(entry.path, left_out)
            else:
                found.append(path / entry.name)
    return sorted(found, key=lambda each: each.name)


def list_images(top: pathlib.Path, left_out: LeftOut) -> list[pathlib.Path]:
    """Returns the image files of a class, at any depth, sorted by path.

    Linked directories are followed after all others, and none is read twice: neither by
    two links, nor by one that leads back to a directory above.
    """
    read = _above(top)
    images: list[pathlib.Path] = []

    def read_all(directory: str, links: list[str]) -> None:
        pending = [directory]
        while pending:
            directory = pending.pop()
            for entry in _visible(directory):
                kind = _kind(entry)
                if kind == "directory" and entry.is_symlink():
                    links.append(entry.path)
                elif kind == "directory":
                    identity = _identity(entry.path)
                    if identity not in read:
                        read.add(identity)
                        pending.append(entry.path)
                elif kind == "file" and entry.name.lower().endswith(SUFFIXES):
                    images.append(pathlib.Path(entry.path))
                else:
                    _add_unread(entry, kind, left_out)

    links: list[str] = []
    read_all(os.fspath(top), links)
    while links:
        # In the order of their names, since the first one to a directory counts.
        found, links = sorted(links), []
        for link in found:
            identity = _identity(link)
            if identity in read:
                _add_repeated(link, left_out)
            else:
                read.add(identity)
                read_all(link, links)
    return sorted(images)


def _visible(path: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if not name.startswith(".") and name.lower() not in _LEFT_BEHIND:
                yield entry


def _kind(entry: os.DirEntry[str]) -> str:
    """Returns `"directory"`, `"file"`, `"broken link"` or `"special file"`."""
    if entry.is_symlink():
        try:
            os.stat(entry.path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return "broken link"
            raise
    if entry.is_dir():
        return "directory"
    return "file" if entry.is_file() else "special file"


def _identity(path: str | os.PathLike[str]) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _above(path: pathlib.Path) -> set[tuple[int, int]]:
    """Identifies a directory and all above it, by its name and where it really is."""
    places = {path, path.resolve()}
    return {_identity(each) for place in places for each in (place, *place.parents)}


def _add_repeated(path: str, left_out: LeftOut) -> None:
    left_out.add(
        path,
        "link to a directory that is read already or is a parent",
        "links to directories that are read already or are parents",
    )


def _add_unread(entry: os.DirEntry[str], kind: str, left_out: LeftOut) -> None:
    if kind != "file":
        left_out.add(entry.path, kind, f"{kind}s")
        return
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix not in _TEXTS:
        suffix = os.fsencode(suffix).decode("utf-8", "backslashreplace")
        what = f"{suffix} file" if suffix else "file without an extension"
        left_out.add(entry.path, what, what.replace("file", "files", 1))
