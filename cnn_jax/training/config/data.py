"""Configuration of the data and its augmentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Annotated, Literal

from cnn_jax.preprocessing import (
    MAX_CHANNELS,
    CropFraction,
    CropMode,
    Interpolation,
    Mean,
    Std,
)
from cnn_jax.ranges import MAX_SIDE, Real, Text, Whole
from cnn_jax.training.config.requirements import Path, Requirement, Share


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The part of `TrainConfig` that decides what the batches hold."""

    dataset: Annotated[str, Text("a dataset's name")] = "digits"
    """`digits`, `folder:PATH` (a directory per class), `synthetic:HxWxC`, or the name
    of a prepared TFDS set."""
    train_split: Annotated[str, Text("a split's name")] = "train"
    """Split to train on; for TFDS sets also a part, such as `train[:10%]`."""
    test_split: Annotated[str, Text("a split's name")] = "test"
    """Split to report the score of."""
    data_dir: Path | None = None
    """Directory of TFDS sets. Default: `$CNN_JAX_DATA/tfds`, else TFDS's own."""
    data_path: Literal["auto", "resident", "stream"] = "auto"
    """`resident`: on every device, as bytes; `stream`: decoded while training. Default:
    resident for images of one size of up to 1 GiB."""
    num_workers: Annotated[int, Whole(0, 1024)] = 0
    """Processes that decode and transform a stream. Default: threads of this one."""
    max_bad_images: Annotated[int, Whole(0)] = 0
    """Images of a stream that may be unreadable; they are skipped and reported."""
    image_size: Annotated[int, Whole(1, MAX_SIDE)] | None = None
    """Height and width to bring images to. Default: the dataset's own."""
    in_channels: Annotated[int, Whole(1, MAX_CHANNELS)] | None = None
    """Channels of the network's images. Grey images are repeated to 3; the first
    filters of pretrained RGB weights become ones for any other number. Default: the
    dataset's, and 3 for grey images that meet RGB weights."""
    augmentation: Annotated[str, Text("a policy's name", 100)] = "none"
    """Augmentation of a stream's images on the host; see
    `cnn_jax.data.host.POLICIES`."""
    mean: Mean | None = None
    """Per channel, subtracted from pixels in [0, 1]. Default: what the pretrained
    weights say; else the training split's own, of images of one size that fit into
    1 GiB and random weights; else the model's, else ImageNet's."""
    std: Std | None = None
    """Per channel, what is then divided by. Default: as for `mean`."""
    crop_fraction: CropFraction | None = None
    """Share of the resized image's height and width that evaluation sees, in the
    middle. Default: what the weights say, but all of images of up to 64 pixels; else
    all of images of the input's own size, else the model's."""
    crop_mode: CropMode | None = None
    """Way in which evaluation brings images to the input's size: `center` crops the
    longer side, `squash` stretches, `border` and `pad` add borders. Default: what the
    weights say; else `pad` for small images of one size, else the model's."""
    interpolation: Interpolation | None = None
    """Filter that images are resized with. Default: what the weights say; else
    `bicubic` for small images of one size, else the model's."""
    validation_fraction: Share = 0.0
    """Share of the training split held out, stratified, for early stopping."""
    batch_size: Annotated[int, Whole(1, 2**24)] = 128
    """Examples per step, over all devices. An epoch's incomplete batch is left out."""
    crop_padding: Annotated[int, Whole(0, MAX_SIDE)] = 0
    """Zeros around an image before a random crop back to its size."""
    flip: bool = False
    """Mirror images at random. Not for digits."""
    erasing_probability: Annotated[float, Real(1e-6, 1.0, or_zero=True)] = 0.0
    """Share of images of which a random rectangle is erased."""

    def _data_requirements(self) -> Iterable[Requirement]:
        side = self.image_size
        yield (
            "crop_padding",
            side is None or self.crop_padding < max(side, 1),
            f"less than image_size, {side}: a crop further out has none of the image",
        )
        given, other = ("mean", "std") if self.std is None else ("std", "mean")
        yield (
            given,
            (self.mean is None) == (self.std is None),
            f"to be given together with {other}",
        )
        yield (
            "std",
            None in (self.mean, self.std)
            or len(self.mean or ()) == len(self.std or ()),
            "as many numbers as mean has, one for each channel",
        )
