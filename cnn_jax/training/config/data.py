"""Configuration of the data and its augmentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

from cnn_jax.training.config.requirements import (
    Requirement,
    at_least_one,
    at_least_one_if_given,
    below_one,
    count_from_zero,
)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The part of `TrainConfig` that decides what the batches hold."""

    dataset: str = "digits"
    """`digits`, `folder:PATH` (a directory per class), `synthetic:HxWxC`, or the name
    of a prepared TFDS set."""
    train_split: str = "train"
    """Split to train on; for TFDS sets also a part, such as `train[:10%]`."""
    test_split: str = "test"
    """Split to report the score of."""
    data_dir: str | None = None
    """Directory of TFDS sets. Default: `$CNN_JAX_DATA/tfds`, else TFDS's own."""
    data_path: Literal["auto", "resident", "stream"] = "auto"
    """`resident`: on every device, as bytes; `stream`: decoded while training. Default:
    resident for images of one size of up to 1 GiB."""
    num_workers: int = 0
    """Processes that decode and transform a stream. Default: threads of this one."""
    max_bad_images: int = 0
    """Images of a stream that may be unreadable; they are skipped and reported."""
    image_size: int | None = None
    """Height and width to bring images to. Default: the dataset's own."""
    augmentation: str = "none"
    """Augmentation of a stream's images on the host; see
    `cnn_jax.data.host.POLICIES`."""
    mean: tuple[float, ...] | None = None
    """Per channel, subtracted from pixels in [0, 1]. Default: the training split's, or
    ImageNet's for a stream."""
    std: tuple[float, ...] | None = None
    """Per channel, what is then divided by. Default: as for `mean`."""
    validation_fraction: float = 0.0
    """Share of the training split held out, stratified, for early stopping."""
    batch_size: int = 128
    """Examples per step, over all devices. An epoch's incomplete batch is left out."""
    crop_padding: int = 0
    """Zeros around an image before a random crop back to its size."""
    flip: bool = False
    """Mirror images at random. Not for digits."""
    erasing_probability: float = 0.0
    """Share of images of which a random rectangle is erased."""

    def _data_requirements(self) -> Iterable[Requirement]:
        yield from at_least_one(self, "batch_size")
        yield from at_least_one_if_given(self, "image_size")
        yield from count_from_zero(
            self, "crop_padding", "num_workers", "max_bad_images"
        )
        yield (
            "erasing_probability",
            0 <= self.erasing_probability <= 1,
            "in [0, 1]",
        )
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
