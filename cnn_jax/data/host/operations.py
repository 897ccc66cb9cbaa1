"""The sixteen operations that learned augmentation policies are made of.

Each takes an image of mode `"RGB"` or `"L"`, a strength from 0 (nothing or little) to 1
and a direction, -1 or 1, and returns an image of the same size. What a strength of 1
means is Cubuk et al.'s (2019, table 6); pixels that come into view are mid-grey.
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageEnhance, ImageOps

Operation = Callable[[Image.Image, float, int], Image.Image]

_FILL = 128
_MOST_SHEAR = 0.3
_MOST_TRANSLATION = 150 / 331  # of the side: the paper's pixels, of its images
_MOST_ROTATION = 30.0
_MOST_ENHANCEMENT = 0.9
_FEWEST_BITS = 4


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    """Result pixel (x, y) shows the image at (a x + b y + c, d x + e y + f)."""
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.NEAREST,
        fillcolor=_fill(image),
    )


def _fill(image: Image.Image) -> int | tuple[int, ...]:
    return _FILL if image.mode == "L" else (_FILL,) * 3


def identity(image: Image.Image, strength: float, direction: int) -> Image.Image:
    """Changes nothing."""
    return image


def shear_x(image: Image.Image, strength: float, direction: int) -> Image.Image:
    """Moves rows sideways, by up to 0.3 of their distance from the top."""
    return _affine(image, 1, direction * strength * _MOST_SHEAR, 0, 0, 1, 0)


def shear_y(image: Image.Image, strength: float, direction: int) -> Image.Image:
    """Moves columns up or down, by up to 0.3 of their distance from the left."""
    return _affine(image, 1, 0, 0, direction * strength * _MOST_SHEAR, 1, 0)


def translate_x(image: Image.Image, strength: float, direction: int) -> Image.Image:
    """Moves the image sideways, by up to 45 % of its width."""
    pixels = round(direction * strength * _MOST_TRANSLATION * image.width)
    return _affine(image, 1, 0, pixels, 0, 1, 0)


def translate_y(image: Image.Image, strength: float, direction: int) -> Image.Image:
    """Moves the image up or down, by up to 45 % of its height."""
    pixels = round(direction * strength * _MOST_TRANSLATION * image.height)
    return _affine(image, 1, 0, 0, 0, 1, pixels)


def rotate(image: Image.Image, strength: float, direction: int) -> Image.Image:
    """Turns the image about its centre, by up to 30 degrees."""
    angle = direction * strength * _MOST_ROTATION
    return image.rotate(angle, fillcolor=_fill(image))


def _enhancement(kind: type) -> Operation:
    def enhance(image: Image.Image, strength: float, direction: int) -> Image.Image:
        return kind(image).enhance(1 + direction * strength * _MOST_ENHANCEMENT)

    enhance.__doc__ = f"Applies `{kind.__name__}` with a factor between 0.1 and 1.9."
    return enhance


def posterize(image: Image.Image, strength: float, direction: int) -> Image.Image:
    """Keeps 8 to 4 bits of every value."""
    return ImageOps.posterize(image, 8 - round(strength * (8 - _FEWEST_BITS)))


def solarize(image: Image.Image, strength: float, direction: int) -> Image.Image:
    """Inverts values from 255 down to a threshold, which falls to 0."""
    # In this order thirds give whole thresholds, which belong to the inverted values.
    return ImageOps.solarize(image, 255 - 255 * strength)  # type: ignore[arg-type]


def autocontrast(image: Image.Image, strength: float, direction: int) -> Image.Image:
    """Stretches each channel to the full range."""
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image, strength: float, direction: int) -> Image.Image:
    """Makes each channel's values equally frequent."""
    return ImageOps.equalize(image)


def invert(image: Image.Image, strength: float, direction: int) -> Image.Image:
    """Inverts every value."""
    return ImageOps.invert(image)


OPERATIONS: dict[str, Operation] = {
    "identity": identity,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
    "rotate": rotate,
    "brightness": _enhancement(ImageEnhance.Brightness),
    "color": _enhancement(ImageEnhance.Color),
    "contrast": _enhancement(ImageEnhance.Contrast),
    "sharpness": _enhancement(ImageEnhance.Sharpness),
    "posterize": posterize,
    "solarize": solarize,
    "autocontrast": autocontrast,
    "equalize": equalize,
    "invert": invert,
}
"""By the name that policies call them."""
