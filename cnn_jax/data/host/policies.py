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


def _inception(size: int, *more: Any) -> Compose:
    return Compose((RandomResizedCrop(size), RandomFlip(), *more))


POLICIES: dict[str, Callable[[int], Transform]] = {
    "none": lambda size: CenterCrop(size, fraction=1.0),
    "inception": _inception,
    "color_jitter": lambda size: _inception(size, ColorJitter(0.4, 0.4, 0.4, 0.1)),
    "randaugment": lambda size: _inception(size, RandAugment()),
    "autoaugment": lambda size: _inception(size, AutoAugment("imagenet")),
    "autoaugment_cifar10": lambda size: _inception(size, AutoAugment("cifar10")),
    "erasing": lambda size: _inception(size, RandomErasing()),
}
"""Policy -> from an image size to a transform.

All but `none`, which shows the middle of each image, begin with the Inception crop and
a flip; the others are called after what they add.
"""


def train_transform(policy: str, image_size: int) -> Transform:
    """Returns what is done to each training image.

    Args:
      policy: A key of `POLICIES`.
      image_size: Height and width of the result.

    Raises:
      ValueError: If there is no such policy; the message names the nearest.
    """
    if policy not in POLICIES:
        near = difflib.get_close_matches(policy, POLICIES, n=1)
        raise ValueError(
            f"augmentation: got {policy!r}, expected one of {list(POLICIES)}."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )
    return POLICIES[policy](image_size)


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
        Image.Resampling[preprocessing.interpolation.upper()],
        preprocessing.crop_mode,
        fill=tuple(round(255 * channel) for channel in mean),
    )
