"""Made-up photographs of a few classes, of all sizes and modes that cameras and editors
write."""

from __future__ import annotations

import pathlib

import numpy as np
from PIL import Image

CLASSES = {"brick": (190, 90, 60), "grass": (60, 150, 50), "water": (50, 90, 190)}
"""Class -> the mean of its colour."""

FORMS = (
    ("jpg", "RGB"),
    ("png", "RGBA"),
    ("jpg", "CMYK"),
    ("png", "P"),
    ("png", "L"),
    ("webp", "RGB"),
    ("tif", "I;16"),
    ("jpg", "rotated"),
)
"""Suffix and mode of the photographs, in turn."""


def write_photographs(
    root: pathlib.Path,
    count: int,
    *,
    classes: dict[str, tuple[int, int, int]] = CLASSES,
    seed: int = 0,
    side: int = 60,
) -> pathlib.Path:
    """Writes `root/CLASS/photo_NN.SUFFIX`, `count` of each class.

    A class is told by its colour, and in grey photographs by the direction of its
    stripes.

    Args:
      root: The directory, made if need be.
      count: How many of each class.
      classes: Class -> colour.
      seed: Of everything random.
      side: The least height and width; they are up to twice that.
    """
    generator = np.random.default_rng(seed)
    for number, (name, colour) in enumerate(classes.items()):
        directory = pathlib.Path(root, name)
        directory.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            height, width = generator.integers(side, 2 * side, 2)
            rows, columns = np.mgrid[:height, :width]
            angle = np.pi * number / len(classes) + generator.normal(0, 0.1)
            along = rows * np.sin(angle) + columns * np.cos(angle)
            stripes = np.sin(2 * np.pi * along / (side / 8) + generator.uniform(0, 6))
            pixels = np.asarray(colour) + generator.normal(0, 15, 3)
            pixels = pixels + 40 * stripes[..., None]
            pixels = pixels + generator.normal(0, 12, (height, width, 1))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            suffix, mode = FORMS[index % len(FORMS)]
            _save(image, directory / f"photo_{index:02}.{suffix}", mode)
    return pathlib.Path(root)


def _save(image: Image.Image, path: pathlib.Path, mode: str) -> None:
    if mode == "I;16":
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
        Image.fromarray(grey).save(path)
    elif mode == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(path, exif=exif)
    else:
        image.convert(mode).save(path)
