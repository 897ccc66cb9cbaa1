"""Stored weights: arrays that are described before they are read."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from cnn_jax.files import FileError
from cnn_jax.preprocessing import Preprocessing

FLOATS = ("bfloat16", "float16", "float32", "float64")
"""The dtypes that weights may have."""

MAX_ARRAYS = 10_000
"""The most arrays that a file may have: several times as many as any model."""

MAX_NAME = 1_000
"""The longest name that an array may have, in characters."""


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array whose shape is known and whose values are not read yet.

    A file may claim arrays of any size. None is read before its shape is
    known to be the model's, so that the model bounds the memory and not the file.

    Attributes:
      shape: Its shape.
      dtype: NumPy's name of its dtype, or the file's own name of one that NumPy lacks.
      read: Returns it.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Provenance:
    """The origin of weights.

    Attributes:
      location: The file's path, the name on the Hub or of a package, or `"a mapping"`.
      file: The path of what was read, on the Hub's side of things in its cache; None
        for a mapping.
      part: The part of it that the arrays are, such as `"state_dict"`; `""` for all.
      revision: The commit, of weights from the Hub; the version, of a package's.
      preprocessing: How images become the weights' input, by the names that
        `cnn_jax.preprocessing.Preprocessing` has (`mean`, `std`, `crop_fraction`,
        `crop_mode`, `interpolation`), with `input_shape` (height, width, channels) in
        place of the size. All of it if the source is one that is known or says it, and
        nothing if it is not; a run of an older version says a part.
      class_names: The names of the classes that the weights were trained on, of weights
        that are known to be published for ImageNet's; None for all others.
    """

    location: str
    file: pathlib.Path | None = None
    part: str = ""
    revision: str | None = None
    preprocessing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] | None = None


def as_said(preprocessing: Preprocessing) -> dict[str, Any]:
    """Returns a preparation of images in the form that `Provenance` has it in."""
    said = preprocessing.to_dict()
    del said["size"], said["channels"]
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in {**said, "input_shape": preprocessing.input_shape}.items()
    }


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights as a reader returns them.

    Attributes:
      arrays: The arrays by name.
      provenance: Where they come from.
      ignored: The names of what is no weight: counters, an optimizer's state.
    """

    arrays: Mapping[str, StoredArray]
    provenance: Provenance
    ignored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_names(self.arrays, self.provenance.location)


def check_count(names: Collection[str], location: object) -> None:
    """Raises FileError for more arrays than models have; takes as `check_names`."""
    if len(names) > MAX_ARRAYS:
        raise FileError(
            f"{location}: got {len(names):,} arrays, expected at most {MAX_ARRAYS:,}."
        )


def check_names(names: Collection[str], location: object) -> None:
    """Raises FileError for more arrays, or longer names, than models have.

    What is done with names later takes a time that grows with both.

    Args:
      names: The arrays' names.
      location: What holds them, for the message.
    """
    check_count(names, location)
    longest = max(map(len, names), default=0)
    if longest > MAX_NAME:
        raise FileError(
            f"{location}: got a name of {longest:,} characters, expected at most "
            f"{MAX_NAME:,}."
        )
