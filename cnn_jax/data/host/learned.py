"""Learned augmentation: AutoAugment's policies and RandAugment."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from PIL import Image

from cnn_jax.data.host.operations import OPERATIONS

LEVELS = 9
"""AutoAugment's magnitudes are 0 to 9."""

Step = tuple[str, float, int]
"""An operation, its probability and its magnitude (0 for one that has none)."""

LearnedPolicy = Literal["imagenet", "cifar10"]
"""The dataset that an AutoAugment policy was learned on."""

AUTO_AUGMENT: dict[LearnedPolicy, tuple[tuple[Step, Step], ...]] = {
    # Cubuk et al. (2019), table 9.
    "imagenet": (
        (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
        (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
        (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
        (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
        (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
        (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
        (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
        (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
        (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
        (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
        (("rotate", 0.8, 8), ("color", 0.4, 0)),
        (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
        (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
        (("invert", 0.6, 0), ("equalize", 1.0, 0)),
        (("color", 0.6, 4), ("contrast", 1.0, 8)),
        (("rotate", 0.8, 8), ("color", 1.0, 2)),
        (("color", 0.8, 8), ("solarize", 0.8, 7)),
        (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
        (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
        (("color", 0.4, 0), ("equalize", 0.6, 0)),
        (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
        (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
        (("invert", 0.6, 0), ("equalize", 1.0, 0)),
        (("color", 0.6, 4), ("contrast", 1.0, 8)),
        (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    ),
    # The same, table 7.
    "cifar10": (
        (("invert", 0.1, 0), ("contrast", 0.2, 6)),
        (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
        (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
        (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
        (("autocontrast", 0.5, 0), ("equalize", 0.9, 0)),
        (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
        (("color", 0.4, 3), ("brightness", 0.6, 7)),
        (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
        (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
        (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
        (("color", 0.7, 7), ("translate_x", 0.5, 8)),
        (("equalize", 0.3, 0), ("autocontrast", 0.4, 0)),
        (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
        (("brightness", 0.9, 6), ("color", 0.2, 8)),
        (("solarize", 0.5, 2), ("invert", 0.0, 0)),
        (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
        (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
        (("color", 0.9, 9), ("equalize", 0.6, 0)),
        (("autocontrast", 0.8, 0), ("solarize", 0.2, 8)),
        (("brightness", 0.1, 3), ("color", 0.7, 0)),
        (("solarize", 0.4, 5), ("autocontrast", 0.9, 0)),
        (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
        (("autocontrast", 0.9, 0), ("solarize", 0.8, 3)),
        (("equalize", 0.8, 0), ("invert", 0.1, 0)),
        (("translate_y", 0.7, 9), ("autocontrast", 0.9, 0)),
    ),
}
"""Pairs of steps, of which one is drawn for each image."""

RAND_AUGMENT = tuple(name for name in OPERATIONS if name != "invert")
"""RandAugment's 14 operations, Cubuk et al. (2020), figure 2."""


@dataclasses.dataclass(frozen=True)
class AutoAugment:
    """One pair of operations out of a learned policy (Cubuk et al. 2019).

    Attributes:
      policy: A key of `AUTO_AUGMENT`.

    Raises:
      ValueError: If there is no such policy.
    """

    policy: LearnedPolicy = "imagenet"

    def __post_init__(self) -> None:
        if self.policy not in AUTO_AUGMENT:
            raise ValueError(
                f"policy: got {self.policy!r}, expected one of {list(AUTO_AUGMENT)}."
            )

    def __call__(
        self, image: Image.Image, generator: np.random.Generator
    ) -> Image.Image:
        """Returns the changed image, of the same size."""
        pairs = AUTO_AUGMENT[self.policy]
        for name, probability, level in pairs[generator.integers(len(pairs))]:
            direction = 1 if generator.random() < 0.5 else -1
            if generator.random() < probability:
                image = OPERATIONS[name](image, level / LEVELS, direction)
        return image


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Some operations drawn uniformly, all equally strong (Cubuk et al. 2020).

    Attributes:
      num_operations: How many, one after the other.
      magnitude: Their strength, 0 to 30.

    Raises:
      ValueError: If a number is out of range.
    """

    num_operations: int = 2
    magnitude: float = 9.0

    def __post_init__(self) -> None:
        if self.num_operations < 1 or not 0 <= self.magnitude <= 30:
            raise ValueError(
                f"num_operations, magnitude: got {self.num_operations} and "
                f"{self.magnitude}, expected at least 1 and 0 to 30."
            )

    def __call__(
        self, image: Image.Image, generator: np.random.Generator
    ) -> Image.Image:
        """Returns the changed image, of the same size."""
        for number in generator.integers(len(RAND_AUGMENT), size=self.num_operations):
            direction = 1 if generator.random() < 0.5 else -1
            operation = OPERATIONS[RAND_AUGMENT[number]]
            image = operation(image, self.magnitude / 30, direction)
        return image
