"""Pictures for a page: arrays of pixels as contact sheets and as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

MARGIN = 2
"""Pixels between the pictures of a contact sheet."""


def contact_sheet(
    images: Sequence[np.ndarray] | np.ndarray, *, columns: int, scale: int = 1
) -> np.ndarray:
    """Lays pictures of one size out in rows, from left to right.

    Args:
      images: uint8, each `(height, width, 3)`, or `(height, width, 1)` for grey.
      columns: How many stand in a row.
      scale: How many pixels high and wide each pixel is shown.

    Returns:
      uint8 of shape `(rows, columns, 3)`; white between the pictures and where the last
      row has none.

    Raises:
      ValueError: If there is no picture, they differ in size or are not of the form
        above, or `columns` or `scale` is not positive.
    """
    kinds = {(np.asarray(image).dtype.name, *np.shape(image)) for image in images}
    if len(kinds) != 1 or not _is_picture(*next(iter(kinds))):
        found = ", ".join(f"{name}{list(shape)}" for name, *shape in sorted(kinds))
        raise ValueError(
            f"images: got {found or 'none'}, expected uint8 of one height and width "
            "and 1 or 3 channels."
        )
    if columns < 1 or scale < 1:
        raise ValueError(
            f"columns, scale: got {columns} and {scale}, expected at least 1."
        )
    _, height, width, _ = next(iter(kinds))
    rows = -(-len(images) // columns)
    steps = (height * scale + MARGIN, width * scale + MARGIN)
    size = (rows * steps[0] - MARGIN, columns * steps[1] - MARGIN, 3)
    sheet = np.full(size, 255, np.uint8)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        top, left = row * steps[0], column * steps[1]
        sheet[top : top + height * scale, left : left + width * scale] = np.repeat(
            np.repeat(image, scale, axis=0), scale, axis=1
        )
    return sheet


def _is_picture(dtype: str, *shape: int) -> bool:
    return dtype == "uint8" and len(shape) == 3 and shape[2] in (1, 3)


def data_uri(image: np.ndarray, *, quality: int | None = None) -> str:
    """Encodes a picture into a URI that holds it.

    Args:
      image: uint8 of shape `(height, width, 3)`.
      quality: Of a JPEG, 1 to 95; a PNG when None.
    """
    file = io.BytesIO()
    kind = "png" if quality is None else "jpeg"
    options = {} if quality is None else {"quality": quality}
    Image.fromarray(image).save(file, kind, **options)
    text = base64.b64encode(file.getvalue()).decode()
    return f"data:image/{kind};base64,{text}"
