"""Stored weights: arrays that are described before they are read."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

FLOATS = ("bfloat16", "float16", "float32", "float64")
"""The dtypes that weights may have."""


class DamagedFileError(ValueError):
    """A file as a whole does not hold what it says."""


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
      location: The file's path, the name on the Hub, or `"a mapping"`.
      file: The path of what was read, on the Hub's side of things in its cache; None
        for a mapping.
      part: The part of it that the arrays are, such as `"state_dict"`; `""` for all.
      revision: The commit, of weights from the Hub.
      preprocessing: What the images went through that the weights were trained with,
        as far as the source says: `mean` and `std` of images in [0, 1], `input_shape`
        (height, width, channels), `crop_fraction` (the side of the centre crop over
        that of the resized image) and `interpolation`.
    """

    location: str
    file: pathlib.Path | None = None
    part: str = ""
    revision: str | None = None
    preprocessing: Mapping[str, Any] = dataclasses.field(default_factory=dict)


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
