"""Changes of colour and of pieces of single images."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
from PIL import Image, ImageEnhance

from cnn_jax.data.host.crop import check_probability


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Changes brightness, contrast, saturation and hue, in a random order.

    Howard (2013), as in torchvision: each of the first three is multiplied by a factor
    drawn from `[max(0, 1 - x), 1 + x]`; the hue is turned by up to `hue` of the circle
    in either direction.

    Attributes:
      brightness: Zero leaves it alone, as do the others.
      contrast: Around the image's mean grey.
      saturation: Towards or away from grey; leaves grayscale images alone.
      hue: At most 0.5; leaves grayscale images alone.

    Raises:
      ValueError: If a number is negative, or `hue` above 0.5.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name, strength in dataclasses.asdict(self).items():
            most = 0.5 if name == "hue" else math.inf
            if not 0 <= strength <= most:
                raise ValueError(f"{name}: got {strength}, expected 0 to {most}.")

    def __call__(
        self, image: Image.Image, generator: np.random.Generator
    ) -> Image.Image:
        """Returns the image in other colours."""
        changes = []
        for strength, enhance in (
            (self.brightness, ImageEnhance.Brightness),
            (self.contrast, ImageEnhance.Contrast),
            (self.saturation, ImageEnhance.Color),
        ):
            factor = generator.uniform(max(0.0, 1 - strength), 1 + strength)
            if strength:
                changes.append(
                    lambda image, enhance=enhance, factor=factor: enhance(
                        image
                    ).enhance(factor)
                )
        turn = generator.uniform(-self.hue, self.hue)
        if self.hue:
            changes.append(functools.partial(turn_hue, turn=turn))
        for position in generator.permutation(len(changes)):
            image = changes[position](image)
        return image


def turn_hue(image: Image.Image, turn: float) -> Image.Image:
    """Turns the hue by a share of the colour circle; a grayscale image has none."""
    if image.mode == "L":
        return image
    hsv = np.array(image.convert("HSV"))
    hsv[..., 0] += np.uint8(round(turn * 255) % 256)  # around the circle, as uint8 does
    turned = Image.frombytes("HSV", image.size, hsv.tobytes())
    return turned.convert("RGB")


@dataclasses.dataclass(frozen=True)
class RandomErasing:
    """Replaces a random rectangle by noise, one value per pixel and channel.

    Zhong et al. (2020), algorithm 1, with the parameters that their experiments use.
    `cnn_jax.data.device.random_erasing` does the same to batches on the device.

    Attributes:
      probability: How often.
      area: The smallest and largest share of the image's area.
      ratio: The smallest height over width; the largest is its inverse.

    Raises:
      ValueError: If a number is out of range.
    """

    probability: float = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    ratio: float = 0.3

    def __post_init__(self) -> None:
        check_probability(self.probability)
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(
                f"area: got {self.area}, expected two ascending shares in (0, 1]."
            )
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio: got {self.ratio}, expected a number in (0, 1].")

    def __call__(
        self, image: Image.Image, generator: np.random.Generator
    ) -> Image.Image:
        """Returns the image, perhaps with a rectangle of noise."""
        if generator.random() >= self.probability:
            return image
        width, height = image.size
        for _ in range(100):
            area = width * height * generator.uniform(*self.area)
            bounds = math.log(self.ratio), -math.log(self.ratio)
            ratio = math.exp(generator.uniform(*bounds))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < h < height and 0 < w < width:
                top = int(generator.integers(0, height - h + 1))
                left = int(generator.integers(0, width - w + 1))
                pixels = np.array(image)
                part = pixels[top : top + h, left : left + w]
                part[...] = generator.integers(0, 256, part.shape, np.uint8)
                return Image.fromarray(pixels)
        return image
