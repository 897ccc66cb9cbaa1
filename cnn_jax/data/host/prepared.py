"""Image files as a network's input, up to its normalisation."""

from __future__ import annotations

import os

import numpy as np

from cnn_jax.data.host.decode import open_image, read_image_file, to_array
from cnn_jax.data.host.policies import eval_transform
from cnn_jax.preprocessing import Preprocessing


def prepared_image(
    path: str | os.PathLike[str], preprocessing: Preprocessing
) -> np.ndarray:
    """Reads an image file as evaluation sees it.

    Args:
      path: The file, in one of `cnn_jax.data.host.decode.FORMATS`.
      preprocessing: How it is brought to the input's size, with 1 or 3 channels.

    Returns:
      uint8 of the input's shape.

    Raises:
      ImageError: If it is no image that can be read.
      OSError: If there is no such file, or it may not be read.
    """
    image = open_image(
        read_image_file(path),
        origin=os.fspath(path),
        channels=preprocessing.channels,
    )
    return to_array(eval_transform(preprocessing)(image))
