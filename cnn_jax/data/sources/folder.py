"""Folders of image files, a directory per class."""

from __future__ import annotations

import functools
import os
import pathlib

import numpy as np

from cnn_jax.data.source import Example, Features
from cnn_jax.data.sources.content import hash_files

SUFFIXES = (".jpg", ".jpeg", ".png")
"""Of the files that count, in any case; others are left alone."""


class Folder:
    """Image files under `root/SPLIT/CLASS/`, of any size.

    Classes are the directories' names, sorted; examples are sorted by path, so that the
    same files have the same numbers everywhere. A `root` whose directories are not
    named like splits may hold the classes themselves: it is then the split `"train"`.

    Args:
      root: The directory.
      split: Which part of it.

    Raises:
      FileNotFoundError: If there is no such directory, or no such split in it.
      PermissionError: If a directory cannot be read.
      ValueError: If there is no class, or a class has no image.
    """

    SPLITS = ("train", "val", "validation", "test")

    def __init__(self, root: str | os.PathLike[str], split: str):
        self.root: pathlib.Path = pathlib.Path(root).expanduser().absolute()
        self.name: str = f"folder:{self.root}"
        self.split: str = split
        directory = self._directory(split)
        classes = _directories(directory)
        if not classes:
            raise ValueError(
                f"{directory}: got no directory in it, expected one per class."
            )
        self.class_names: tuple[str, ...] = tuple(path.name for path in classes)
        files = [_images(path) for path in classes]
        empty = [
            str(path) for path, found in zip(classes, files, strict=True) if not found
        ]
        if empty:
            raise ValueError(
                f"{directory}: expected images ({', '.join(SUFFIXES)}) of every class, "
                f"found none in {', '.join(empty)}."
            )
        self._directory_path = directory
        # Relative names as one array of bytes: a million paths in a few megabytes.
        self._files = np.asarray(
            [
                os.fsencode(path.relative_to(directory))
                for found in files
                for path in found
            ]
        )
        self._labels = np.repeat(np.arange(len(files)), [len(found) for found in files])

    @property
    def features(self) -> Features:
        """Encoded colour images of any size."""
        return Features((None, None, 3), encoded=True)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A sha256 over paths, sizes and bytes; see `hash_files`."""
        names = [os.fsdecode(name) for name in self._files]
        return hash_files(map(self._path, self._files), names)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Example:
        path = self._path(self._files[index])
        return Example(path.read_bytes(), int(self._labels[index]), str(path))

    def _path(self, name: bytes) -> pathlib.Path:
        return self._directory_path / os.fsdecode(name)

    def _directory(self, split: str) -> pathlib.Path:
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"{self.root}: expected a directory with one for each split or class."
            )
        names = [path.name for path in _directories(self.root)]
        if split in names:
            return self.root / split
        splits = [name for name in names if name in self.SPLITS]
        if splits or split != "train":
            raise FileNotFoundError(
                f"{self.root / split}: expected a directory per class in it; "
                + (
                    f"the splits there are {splits}."
                    if splits
                    else "there are no splits."
                )
            )
        return self.root


def _directories(path: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        (entry for entry in path.iterdir() if _is_visible_directory(entry)),
        key=lambda entry: entry.name,
    )


def _is_visible_directory(path: pathlib.Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _images(path: pathlib.Path) -> list[pathlib.Path]:
    def raise_error(error: OSError) -> None:
        raise error  # os.walk would skip a directory that it cannot read

    return sorted(
        pathlib.Path(directory) / name
        for directory, _, names in os.walk(path, onerror=raise_error)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    )
