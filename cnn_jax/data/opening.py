"""A split by its name, on the path that fits its size."""

from __future__ import annotations

import math
import os
from typing import Literal

from cnn_jax.data.prepared import RESIDENT_BYTES
from cnn_jax.data.source import Source
from cnn_jax.data.sources import load_dataset, open_source

Path = Literal["auto", "resident", "stream"]
"""The path by which a split reaches the devices; see `open_split`."""


def open_split(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    path: Path = "auto",
) -> Source:
    """Opens one split of a dataset.

    Args:
      name: As in `open_source`.
      split: Which part of it.
      data_dir: The directory of TFDS sets.
      image_size: The height and width that a resident set is brought to.
      path: `"resident"` reads everything into memory, as `load_dataset` does;
        `"stream"` reads examples on demand; `"auto"` reads images that
        are known to be of one size, and together no more than 1 GiB, into memory.

    Returns:
      A `Dataset` if it is to be resident, else a source to stream from.

    Raises:
      FileNotFoundError, ValueError: As `open_source` and `load_dataset` do.
    """
    if path != "resident":
        source = open_source(name, split, data_dir=data_dir)
        sides = [side for side in source.features.image_shape if side is not None]
        is_small = len(sides) == 3 and len(source) * math.prod(sides) <= RESIDENT_BYTES
        if path == "stream" or not is_small:
            return source
    return load_dataset(name, split, data_dir=data_dir, image_size=image_size)
