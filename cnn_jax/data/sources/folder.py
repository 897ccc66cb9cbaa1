"""Folders of image files, a directory per class."""

from __future__ import annotations

import os
import pathlib
import warnings

import numpy as np

from cnn_jax.data.host.decode import SUFFIXES, read_image_file
from cnn_jax.data.source import Example, Features, cached_property
from cnn_jax.data.sources.content import hash_files
from cnn_jax.data.sources.listing import LeftOut, list_classes, list_images

FOLDER = "folder:"
"""The beginning of a dataset's name that is a directory's path."""


class Folder:
    """Image files under `root/SPLIT/CLASS/`, of any size.

    Classes are the directories' names, sorted; examples are sorted by path, so that the
    same files have the same numbers everywhere. A class has all images below its
    directory, linked directories included, each directory once. A `root` whose
    directories are not named like splits may hold the classes themselves: it is then
    the split `"train"`.

    The name decides what counts as an image: `SUFFIXES`, in any case. Hidden files
    and directories and what operating systems leave behind (`__MACOSX`, `@eaDir`) are
    passed over at every level.

    Args:
      root: The directory.
      split: Which part of it.

    Attributes:
      directory: The one with the classes.

    Raises:
      FileNotFoundError: If there is no such directory, or no such split in it.
      PermissionError: If a directory cannot be read.
      ValueError: If there is no class, a class has no image, or its name is no UTF-8.

    Warns:
      UserWarning: If files, links or directories are left out; it says how many of
        which kind. Texts (`.txt`, `.json`, ...) are not counted.
    """

    SPLITS = ("train", "val", "validation", "test")

    def __init__(self, root: str | os.PathLike[str], split: str):
        self.root: pathlib.Path = pathlib.Path(root).expanduser().absolute()
        self.name: str = f"{FOLDER}{self.root}"
        self.split: str = split
        directory = self._directory(split)
        left_out = LeftOut(directory)
        classes = list_classes(directory, left_out)
        if not classes:
            raise ValueError(
                f"{directory}: got no directory in it, expected one per class"
                f"{_but(left_out)}."
            )
        self.class_names: tuple[str, ...] = tuple(path.name for path in classes)
        _check_names(directory, self.class_names)
        files = [list_images(path, left_out) for path in classes]
        empty = [
            str(path) for path, found in zip(classes, files, strict=True) if not found
        ]
        if empty:
            raise ValueError(
                f"{directory}: expected images ({', '.join(SUFFIXES)}) of every class, "
                f"found none in {', '.join(empty)}{_but(left_out)}."
            )
        if str(left_out):
            warnings.warn(
                f"{self.name}, split {split!r}: left out {left_out}. Images are read "
                f"from files that end with {', '.join(SUFFIXES)}.",
                stacklevel=2,
            )
        self.directory: pathlib.Path = directory
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

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 over paths, sizes and bytes; see `hash_files`."""
        return hash_files(map(self._path, self._files), self.file_names)

    @property
    def file_names(self) -> list[str]:
        """The examples' paths, relative to the directory with the classes."""
        return [os.fsdecode(name) for name in self._files]

    @property
    def labels(self) -> np.ndarray:
        """The examples' labels, int64 `(n,)`, without reading one."""
        return self._labels.copy()

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Example:
        path = self._path(self._files[index])
        return Example(read_image_file(path), int(self._labels[index]), str(path))

    def _path(self, name: bytes) -> pathlib.Path:
        return self.directory / os.fsdecode(name)

    def _directory(self, split: str) -> pathlib.Path:
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"{self.root}: expected a directory with one for each split or class."
            )
        names = [path.name for path in list_classes(self.root, LeftOut(self.root))]
        if split in names:
            return self.root / split
        # On a case-sensitive file system, `Test` would otherwise be a class.
        splits = [name for name in names if name.lower() in self.SPLITS]
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


def _but(left_out: LeftOut) -> str:
    return f", but {left_out}, which are not read" if str(left_out) else ""


def _check_names(directory: pathlib.Path, names: tuple[str, ...]) -> None:
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{directory}: got a directory called {os.fsencode(name)!r}, expected "
                "names of classes in UTF-8; rename it."
            ) from None


def absolute_name(name: str) -> str:
    """Returns a dataset's name that means the same in every working directory."""
    if not name.startswith(FOLDER) or name == FOLDER:
        return name
    path = pathlib.Path(name.removeprefix(FOLDER)).expanduser()
    return FOLDER + os.path.abspath(path)
