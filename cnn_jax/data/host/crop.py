"""Crops and flips of single images: what brings photographs to one size."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from PIL import Image

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the image, stretched to one size ("Inception crop").

    Szegedy et al. (2015), as in torchvision: an area is drawn uniformly, an aspect
    ratio log-uniformly, and a place for them; after ten parts that do not fit, the
    largest centred one with an allowed ratio is taken.

    Attributes:
      size: Height and width of the result.
      scale: The smallest and largest share of the image's area.
      ratio: The smallest and largest width over height.
      resample: Pillow's filter.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    resample: Image.Resampling = BILINEAR

    def __call__(
        self, image: Image.Image, generator: np.random.Generator
    ) -> Image.Image:
        """Returns the crop, `size` by `size`."""
        box = self.draw(image.size, generator)
        # Cropping and resizing at once reads no pixel that is not needed.
        return image.resize((self.size,) * 2, self.resample, box=box)

    def draw(
        self, size: tuple[int, int], generator: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """Draws the `(left, top, right, bottom)` of a part of `(width, height)`."""
        width, height = size
        for _ in range(10):
            area = width * height * generator.uniform(*self.scale)
            ratio = math.exp(generator.uniform(*map(math.log, self.ratio)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left = int(generator.integers(0, width - w + 1))
                top = int(generator.integers(0, height - h + 1))
                return left, top, left + w, top + h
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        w = max(1, min(width, round(height * ratio)))
        h = max(1, min(height, round(width / ratio)))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h


@dataclasses.dataclass(frozen=True)
class CenterCrop:
    """The middle of the image, for evaluation.

    The shorter side is resized to `size / fraction`, then the middle is cut out: with
    0.875, 224 pixels out of 256.

    Attributes:
      size: Height and width of the result.
      fraction: The share of the shorter side that is kept.
      resample: Pillow's filter.
    """

    size: int
    fraction: float = 0.875
    resample: Image.Resampling = BILINEAR

    def __call__(
        self, image: Image.Image, generator: np.random.Generator | None = None
    ) -> Image.Image:
        """Returns the crop, `size` by `size`; draws nothing."""
        # The part of the original that the crop will show, resized at once.
        side = min(image.size) * self.fraction
        left, top = ((length - side) / 2 for length in image.size)
        box = (left, top, left + side, top + side)
        return image.resize((self.size,) * 2, self.resample, box=box)


@dataclasses.dataclass(frozen=True)
class RandomFlip:
    """Mirrors left to right.

    Attributes:
      probability: How often.
    """

    probability: float = 0.5

    def __call__(
        self, image: Image.Image, generator: np.random.Generator
    ) -> Image.Image:
        """Returns the image or its mirror image."""
        if generator.random() >= self.probability:
            return image
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
