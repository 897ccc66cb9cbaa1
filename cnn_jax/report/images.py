"""Images for a report: sheets of them, with words below, and as part of a page.

Everything here takes and returns arrays of pixels; Pillow encodes and writes letters.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np

GAP = 2
"""Pixels between two images of a sheet, and around all."""


def contact_sheet(
    images: np.ndarray | Sequence[np.ndarray],
    *,
    columns: int | None = None,
    scale: int = 1,
) -> np.ndarray:
    """Lays images out on a white sheet, row by row.

    Args:
      images: At least one, each `(h, w)` or `(h, w, c)` with one channel or three, all
        of one height and width: uint8, or floating-point numbers from 0 to 1 (what
        lies outside is clipped). Wide filters or batches of feature maps fit, too.
      columns: How many stand side by side; None for as many as make a square.
      scale: Each pixel becomes a square of this side, so that small images keep their
        pixels visible.

    Returns:
      uint8 `(height, width, 3)`; the last row is filled up with white.

    Raises:
      ValueError: If there is no image, shapes or dtypes differ from those, or a number
        is not positive.
    """
    images = [_as_rgb(np.asarray(image), "contact_sheet") for image in images]
    shapes = {image.shape for image in images}
    if len(shapes) != 1:
        raise ValueError(
            f"contact_sheet: got images of {len(shapes)} sizes "
            f"({', '.join(map(str, sorted(shapes))) or 'no image'}), expected at least "
            "one image, all of one size; resize them first."
        )
    columns = math.ceil(math.sqrt(len(images))) if columns is None else columns
    if columns < 1 or scale < 1:
        raise ValueError(
            f"contact_sheet: got columns {columns} and scale {scale}, expected "
            "positive integers."
        )
    images = [image.repeat(scale, axis=0).repeat(scale, axis=1) for image in images]
    height, width, _ = images[0].shape
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    step_y, step_x = height + GAP, width + GAP
    sheet = np.full((rows * step_y + GAP, columns * step_x + GAP, 3), 255, np.uint8)
    for index, image in enumerate(images):
        top = GAP + index // columns * step_y
        left = GAP + index % columns * step_x
        sheet[top : top + height, left : left + width] = image
    return sheet


def with_caption(image: np.ndarray, caption: str, *, font_size: int = 14) -> np.ndarray:
    """Returns an image with lines of text below it, in black on white.

    Args:
      image: As one of `contact_sheet`'s.
      caption: The text; the sheet is widened where a line needs it.
      font_size: The height of a line's letters in pixels.

    Returns:
      uint8 `(height, width, 3)`.
    """
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(_as_rgb(np.asarray(image), "with_caption"))
    font = ImageFont.load_default(font_size)
    measure = ImageDraw.Draw(picture)
    margin = font_size // 2
    _, _, right, bottom = measure.multiline_textbbox((0, 0), caption, font=font)
    size = (
        max(picture.width, math.ceil(right) + 2 * margin),
        picture.height + math.ceil(bottom) + 2 * margin,
    )
    sheet = Image.new("RGB", size, "white")
    sheet.paste(picture, ((size[0] - picture.width) // 2, 0))
    ImageDraw.Draw(sheet).multiline_text(
        (margin, picture.height + margin), caption, fill="black", font=font
    )
    return np.asarray(sheet)


def encode_png(image: np.ndarray) -> bytes:
    """Returns an image, as one of `contact_sheet`'s, as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    pixels = _as_rgb(np.asarray(image), "encode_png")
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def png_data_uri(image: np.ndarray) -> str:
    """Returns an image as a `data:` address, which a page holds in itself."""
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()


def _as_rgb(image: np.ndarray, function: str) -> np.ndarray:
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or 0 in image.shape:
        raise ValueError(
            f"{function}: got an image of shape {image.shape}, expected (h, w), "
            "(h, w, 1) or (h, w, 3), not empty."
        )
    if np.issubdtype(image.dtype, np.floating):
        # What is not a number has no colour: black, like all that is below 0.
        image = np.nan_to_num(image, nan=0.0, posinf=1.0, neginf=0.0)
        image = np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
    if image.dtype != np.uint8:
        raise ValueError(
            f"{function}: got an image of dtype {image.dtype}, expected uint8, or "
            "floating-point numbers from 0 to 1."
        )
    return np.broadcast_to(image, (*image.shape[:2], 3))
