"""Named sequences of transforms: what is done to a training image on the host."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from cnn_jax.data.host.color import ColorJitter, RandomErasing
from cnn_jax.data.host.crop import CenterCrop, RandomFlip, RandomResizedCrop
from cnn_jax.data.host.learned import AutoAugment, RandAugment
from cnn_jax.preprocessing import Preprocessing

Transform = Callable[[Image.Image, np.random.Generator], Image.Image]
"""Changes one image, of mode `"RGB"` or `"L"`, given a generator of its own."""


@dataclasses.dataclass(frozen=True)
class Compose:
    """Transforms one after the other.

    Attributes:
      transforms: In this order.
    """

    transforms: tuple[Transform, ...]

    def __call__(
        self, image: Image.Image, generator: np.random.Generator
    ) -> Image.Image:
        """Returns the changed image."""
        for transform in self.transforms:
            image = transform(image, generator)
        return image


def resample_of(preprocessing: Preprocessing) -> Image.Resampling:
    """Returns Pillow's filter."""
    return Image.Resampling[preprocessing.interpolation.upper()]


def _whole(preprocessing: Preprocessing) -> CenterCrop:
    return eval_transform(dataclasses.replace(preprocessing, crop_fraction=1.0))


def _inception(preprocessing: Preprocessing, *more: Any) -> Compose:
    crop = RandomResizedCrop(preprocessing.size, resample=resample_of(preprocessing))
    return Compose((crop, RandomFlip(), *more))


POLICIES: dict[str, Callable[[Preprocessing], Transform]] = {
    "none": _whole,
    "inception": _inception,
    "color_jitter": lambda how: _inception(how, ColorJitter(0.4, 0.4, 0.4, 0.1)),
    "randaugment": lambda how: _inception(how, RandAugment()),
    "autoaugment": lambda how: _inception(how, AutoAugment("imagenet")),
    "autoaugment_cifar10": lambda how: _inception(how, AutoAugment("cifar10")),
    "erasing": lambda how: _inception(how, RandomErasing()),
}
"""Policy -> from the preparation of images to a transform.

All but `none`, which shows all of each image that its crop mode does, begin with the
Inception crop and a flip; the others are called after what they add.
"""


def train_transform(policy: str, images: int | Preprocessing) -> Transform:
    """Returns what is done to each training image.

    Args:
      policy: A key of `POLICIES`.
      images: How images are prepared, of which size, interpolation and crop mode are
        taken; or height and width of the result alone.

    Raises:
      ValueError: If there is no such policy; the message names the nearest.
    """
    if policy not in POLICIES:
        near = difflib.get_close_matches(policy, POLICIES, n=1)
        raise ValueError(
            f"augmentation: got {policy!r}, expected one of {list(POLICIES)}."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )
    how = images if isinstance(images, Preprocessing) else Preprocessing(images)
    return POLICIES[policy](how)


def eval_transform(preprocessing: Preprocessing) -> CenterCrop:
    """Returns what is done to each image before evaluation, up to its normalisation.

    Args:
      preprocessing: The size, the crop and the interpolation, and for a border the
        mean.
    """
    mean = preprocessing.mean or ()
    return CenterCrop(
        preprocessing.size,
        preprocessing.crop_fraction,
        resample_of(preprocessing),
        preprocessing.crop_mode,
        fill=tuple(round(255 * channel) for channel in mean),
    )
