"""Which data a run sees, and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from cnn_jax.training.config.requirements import (
    Requirement,
    at_least_one,
    at_least_one_if_given,
    below_one,
    not_negative,
)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The part of `TrainConfig` that decides what the batches hold."""

    dataset: str = "digits"
    """`digits`, or the name of a prepared TFDS set."""
    data_dir: str | None = None
    """Where TFDS sets lie. Default: `$CNN_JAX_DATA/tfds`, else TFDS's own."""
    image_size: int | None = None
    """Height and width to bring images to. Default: the dataset's own."""
    mean: tuple[float, ...] | None = None
    """Per channel, subtracted from pixels in [0, 1]. Default: the training split's."""
    std: tuple[float, ...] | None = None
    """Per channel, what is then divided by. Default: the training split's."""
    validation_fraction: float = 0.0
    """Share of the training split held out, stratified, for early stopping."""
    batch_size: int = 128
    """Examples per step, over all devices. An epoch's incomplete batch is left out."""
    crop_padding: int = 0
    """Zeros around an image before a random crop back to its size."""
    flip: bool = False
    """Whether images are mirrored at random. Not for digits."""

    def _data_requirements(self) -> Iterable[Requirement]:
        yield from at_least_one(self, "batch_size")
        yield from at_least_one_if_given(self, "image_size")
        yield from not_negative(self, "crop_padding")
        yield from below_one(self, "validation_fraction")
        yield (
            "mean",
            (self.mean is None) == (self.std is None),
            "to be given together with std",
        )
        yield (
            "std",
            self.std is None or all(value > 0 for value in self.std),
            "positive numbers",
        )
