"""Captions drawn into a picture, for a file that is shown by itself."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def with_caption(image: np.ndarray, caption: str, *, font_size: int = 14) -> np.ndarray:
    """Returns a picture with lines of text below it, in black on white.

    Args:
      image: uint8 of shape `(height, width, 3)`.
      caption: The text. Where a line is longer than the picture is wide, the result is
        wider, the picture in its middle.
      font_size: The height of a line's letters in pixels.

    Returns:
      uint8 of shape `(height, width, 3)`.
    """
    picture = Image.fromarray(image)
    font = ImageFont.load_default(font_size)
    margin = font_size // 2
    _, _, right, bottom = ImageDraw.Draw(picture).multiline_textbbox(
        (0, 0), caption, font=font
    )
    width = max(picture.width, math.ceil(right) + 2 * margin)
    height = picture.height + math.ceil(bottom) + 2 * margin
    sheet = Image.new("RGB", (width, height), "white")
    sheet.paste(picture, ((width - picture.width) // 2, 0))
    ImageDraw.Draw(sheet).multiline_text(
        (margin, picture.height + margin), caption, fill="black", font=font
    )
    return np.asarray(sheet)
