"""Crops and flips of single images, which bring photographs to one size."""

from __future__ import annotations

import dataclasses
import math
from typing import get_args

import numpy as np
from PIL import Image

from cnn_jax.preprocessing import CropMode

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

    Raises:
      ValueError: If a number is out of range.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    resample: Image.Resampling = BILINEAR

    def __post_init__(self) -> None:
        _check_size(self.size)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(
                f"scale: got {self.scale}, expected two ascending shares in (0, 1]."
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(
                f"ratio: got {self.ratio}, expected two ascending numbers above 0."
            )

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
            ratio = math.exp(
                generator.uniform(math.log(self.ratio[0]), math.log(self.ratio[1]))
            )
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
    0.875, 224 pixels out of 256. Other modes resize otherwise, see
    `cnn_jax.preprocessing.CropMode`.

    Attributes:
      size: Height and width of the result.
      fraction: The share of the resized image's height and width that is kept.
      resample: Pillow's filter.
      mode: `"center"`, `"squash"`, `"border"` or `"pad"`.
      fill: The border's colour, a number of 0 to 255 for each channel; black if empty.

    Raises:
      ValueError: If a number is out of range.
    """

    size: int
    fraction: float = 0.875
    resample: Image.Resampling = BILINEAR
    mode: CropMode = "center"
    fill: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check_size(self.size)
        if not 0 < self.fraction <= 1:
            raise ValueError(
                f"fraction: got {self.fraction}, expected a number in (0, 1]."
            )
        if self.mode not in get_args(CropMode):
            raise ValueError(
                f"mode: got {self.mode!r}, expected one of {get_args(CropMode)}."
            )

    def __call__(
        self, image: Image.Image, generator: np.random.Generator | None = None
    ) -> Image.Image:
        """Returns the crop, `size` by `size`; draws nothing."""
        if self.mode == "border":
            return self._with_border(image)
        if self.mode == "pad" and self.pads(image.size):
            canvas = Image.new(image.mode, (self.size,) * 2)
            margins = [(self.size - side) // 2 for side in image.size]
            canvas.paste(image, (margins[0], margins[1]))
            return canvas
        # The part of the original that the crop will show, resized at once.
        sides = (min(image.size),) * 2 if self.mode == "center" else image.size
        width, height = (side * self.fraction for side in sides)
        left, top = (image.size[0] - width) / 2, (image.size[1] - height) / 2
        box = (left, top, left + width, top + height)
        return image.resize((self.size,) * 2, self.resample, box=box)

    def pads(self, size: tuple[int, int]) -> bool:
        """Returns whether mode "pad" gives an image of this size a border."""
        resized = self.size / self.fraction
        return all(3 * resized <= 4 * side <= 4 * resized for side in size)

    def _with_border(self, image: Image.Image) -> Image.Image:
        scale = self.size / self.fraction / max(image.size)
        shown = [min(length, self.size / scale) for length in image.size]
        left, top = ((a - b) / 2 for a, b in zip(image.size, shown, strict=True))
        width, height = (max(1, round(length * scale)) for length in shown)
        middle = image.resize(
            (width, height),
            self.resample,
            box=(left, top, left + shown[0], top + shown[1]),
        )
        fill = self.fill[0] if len(self.fill) == 1 else self.fill or 0
        canvas = Image.new(image.mode, (self.size,) * 2, fill)
        canvas.paste(middle, ((self.size - width) // 2, (self.size - height) // 2))
        return canvas


@dataclasses.dataclass(frozen=True)
class RandomFlip:
    """Mirrors left to right.

    Attributes:
      probability: How often.

    Raises:
      ValueError: If `probability` is not in [0, 1].
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        check_probability(self.probability)

    def __call__(
        self, image: Image.Image, generator: np.random.Generator
    ) -> Image.Image:
        """Returns the image or its mirror image."""
        if generator.random() >= self.probability:
            return image
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def check_probability(probability: float) -> None:
    """Raises a ValueError unless `probability` is in [0, 1]."""
    if not 0 <= probability <= 1:
        raise ValueError(
            f"probability: got {probability}, expected a number in [0, 1]."
        )


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"size: got {size}, expected at least 1.")
