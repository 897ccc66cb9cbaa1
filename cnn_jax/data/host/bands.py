"""Large images a part at a time, since conversions multiply their memory."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

_PIXELS = 2**20


def bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yields `(first row, the rows as an image)` of about a million pixels each."""
    if image.width * image.height <= _PIXELS:
        yield 0, image
        return
    rows = max(1, _PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        yield top, image.crop((0, top, image.width, bottom))
