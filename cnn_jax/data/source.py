"""Sources of labelled images: the one protocol that every dataset is read through.

A source is random access over examples that need not fit in memory; `Dataset` is the
one that does. Iterators (a loader, a stream over processes) read examples
by number, so that a position in the data is an integer.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    # What is computed once is read-only all the same, and pyright takes no other
    # descriptor than a property for a protocol's.
    cached_property = property
else:
    cached_property = functools.cached_property


class Example(NamedTuple):
    """One labelled image as a source holds it.

    Attributes:
      image: Either the bytes of an image file, or pixels: uint8 of shape
        `(height, width, channels)`.
      label: Below the number of classes.
      origin: What an error message calls it: the file's path, or `"mnist train[17]"`.
    """

    image: bytes | np.ndarray
    label: int
    origin: str


@dataclasses.dataclass(frozen=True)
class Features:
    """The shape and encoding of a source's examples.

    Attributes:
      image_shape: `(height, width, channels)`; None for a side that varies.
      encoded: Whether images come as encoded files rather than as pixels.
    """

    image_shape: tuple[int | None, int | None, int]
    encoded: bool


@runtime_checkable
class Source(Protocol):
    """Labelled images by number, to be read from several threads and processes.

    A source can be pickled, and opens what it reads from (files, array_record shards)
    anew in each process, when the first example is read.
    """

    # Read-only, so that frozen dataclasses are sources, too.
    @property
    def name(self) -> str:
        """The dataset's name."""

    @property
    def split(self) -> str:
        """The name of its split."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""

    @property
    def features(self) -> Features:
        """The shape and encoding of the examples."""

    @property
    def fingerprint(self) -> str:
        """A sha256 that changes when the content does.

        Over names, labels and bytes where they are in memory, else over
        substitutes: a set's own checksums, the files' paths and sizes.
        """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...
