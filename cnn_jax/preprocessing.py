"""The preparation of images: size, crop, interpolation, normalisation.

A `Preprocessing` is a value. Models have one (`cnn_jax.model_info`), and so have
weights, training runs and their checkpoints; `cnn_jax.data.eval_transform` and
`cnn_jax.data.normalize` apply it, in evaluation, prediction and feature extraction
alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from cnn_jax.ranges import (
    MAX_SIDE,
    Length,
    Real,
    Whole,
    as_annotated,
    declared,
    problem,
    shown,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's red, green and blue, in units of the full range."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of ImageNet's red, green and blue, likewise."""

SMALL_SIDE = 64
"""Up to this height and width, images are small, as CIFAR's and MNIST's: networks see
the whole of them."""

MAX_CHANNELS = 2**10
"""The most channels that an image may have."""

CropMode = Literal["center", "squash", "border", "pad"]
"""`center`: the shorter side is resized to `size / crop_fraction`, and the middle cut
out. `squash`: both sides are, whatever the aspect ratio, and the middle is cut out.
`border`: the longer side is, and the middle cut out, with a border in the mean colour
where the image ends. `pad`: an image up to a quarter smaller than `size /
crop_fraction` keeps its pixels and gets a black border (MNIST's 28 x 28 become 32 x
32), any other is squashed, and the middle is cut out."""

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
"""The filter that images are resized with, as Pillow calls it."""

Mean = Annotated[tuple[Annotated[float, Real(0.0, 1.0)], ...], Length(1, MAX_CHANNELS)]
"""Per channel, subtracted from pixels in [0, 1]."""

Std = Annotated[tuple[Annotated[float, Real(1e-3, 10.0)], ...], Length(1, MAX_CHANNELS)]
"""Per channel, what is then divided by."""

_Divisor = Annotated[
    tuple[Annotated[float, Real(1e-9, 10.0)], ...], Length(1, MAX_CHANNELS)
]
"""As `Std`, and what images measured: a channel may be all but constant."""

_InputShape = tuple[
    Annotated[int, Whole(1, MAX_SIDE)],
    Annotated[int, Whole(1, MAX_SIDE)],
    Annotated[int, Whole(1, MAX_CHANNELS)],
]

CropFraction = Annotated[float, Real(0.01, 1.0)]
"""The share of the resized image's height and width that is kept."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The preparation of images as a network's input.

    Attributes:
      size: Height and width of the input, in pixels.
      mean: Per channel, subtracted from pixels in [0, 1]; None for images of
        floating-point numbers, which go to the network as they are.
      std: Per channel, what is then divided by; None likewise.
      crop_fraction: The share of the resized image's height and width that is kept;
        with 7/8, 224 pixels out of 256.
      crop_mode: How an image that is not square is brought to the size.
      interpolation: The filter that images are resized with.
      channels: 1 for grey images, 3 for colour; other numbers for arrays.

    Raises:
      ValueError: If a value is out of range, or mean and deviation are not one number
        for each channel.
    """

    size: Annotated[int, Whole(1, MAX_SIDE)]
    mean: Mean | None = IMAGENET_MEAN
    std: _Divisor | None = IMAGENET_STD
    crop_fraction: CropFraction = 0.875
    crop_mode: CropMode = "center"
    interpolation: Interpolation = "bilinear"
    channels: Annotated[int, Whole(1, MAX_CHANNELS)] = 3

    def __post_init__(self) -> None:
        for name, annotation in declared(Preprocessing).items():
            expected = problem(getattr(self, name), annotation)
            if expected is not None:
                raise ValueError(
                    f"{name}: got {shown(getattr(self, name))}, expected {expected}."
                )
        for name in ("mean", "std"):
            value = getattr(self, name)
            if (value is None) != (self.mean is None):
                raise ValueError(f"{name}: got {value}, expected mean and std or none.")
            if value is not None and len(value) != self.channels:
                raise ValueError(
                    f"{name}: got {len(value)} numbers for images of {self.channels} "
                    f"channels, expected {self.channels}."
                )

    def __str__(self) -> str:
        size = " x ".join(map(str, self.input_shape))
        crop = f"{self.crop_mode} crop {self.crop_fraction:.4g}"
        mean, std = _in_short(self.mean), _in_short(self.std)
        return f"{size}, {crop}, {self.interpolation}, mean {mean}, std {std}"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """`(height, width, channels)` of the input."""
        return (self.size, self.size, self.channels)

    def at(self, size: int) -> Preprocessing:
        """Returns the same for another size: small images are seen whole."""
        if size == self.size:
            return self
        fraction = self.crop_fraction if self.size > SMALL_SIDE else 0.875
        return dataclasses.replace(
            self, size=size, crop_fraction=1.0 if size <= SMALL_SIDE else fraction
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields by name, for JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Preprocessing:
        """Returns what `to_dict` gave, perhaps through JSON.

        Raises:
          ValueError: If a field is unknown, missing or out of range.
        """
        unknown = sorted(set(saved) - set(declared(cls)))
        if unknown or "size" not in saved:
            raise ValueError(
                f"preprocessing: got {shown(dict(saved))}, expected the fields of a "
                "Preprocessing."
            )
        return cls(**known_fields(saved))


def known_fields(said: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a `Preprocessing` that weights or a run say, checked.

    Args:
      said: Fields by name, all or some, perhaps out of JSON. `input_shape`, height,
        width and channels, takes the place of `size` and `channels`; where it is not
        square there is no size. Other entries are passed over.

    Raises:
      ValueError: If a value is out of range.
    """
    hints = declared(Preprocessing)
    found = {}
    for name, annotation in {**hints, "input_shape": _InputShape}.items():
        if name not in said:
            continue
        found[name] = as_annotated(said[name], annotation)
        expected = problem(found[name], annotation)
        if expected is not None:
            raise ValueError(f"{name}: got {shown(said[name])}, expected {expected}.")
    if "input_shape" in found:
        height, width, found["channels"] = found.pop("input_shape")
        found.pop("size", None)
        if height == width:
            found["size"] = height
    return found


def unrecorded_crop(*, is_stream: bool, is_resized: bool = False) -> dict[str, Any]:
    """Returns how runs evaluated of versions that did not record all of the crop.

    Args:
      is_stream: Whether the images were streamed and not in memory.
      is_resized: Whether they were brought to the input's size when they were read into
        memory, and not seen as they were.

    Returns:
      `crop_fraction`, `crop_mode` and `interpolation`.
    """
    return {
        "crop_fraction": 0.875 if is_stream else 1.0,
        "crop_mode": "pad" if is_resized else "center",
        "interpolation": "bicubic" if is_resized else "bilinear",
    }


def _in_short(values: tuple[float, ...] | None) -> str:
    """Returns numbers for a sentence: one where they are all the same."""
    if values is None:
        return "none"
    listed = values[:1] if len(set(values)) == 1 else values
    return " ".join(f"{value:.4g}" for value in listed)
