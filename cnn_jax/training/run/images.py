"""Augmentation and normalisation of images, inside the compiled step."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import data
from cnn_jax.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from cnn_jax.training.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class ImageFormat:
    """The images that the model gets.

    Attributes:
      shape: `(height, width, channels)`.
      dtype: The name of their floating-point dtype.
      mean: Per channel, subtracted from pixels in [0, 1]; None for floating-point
        images, which are not normalised.
      std: Per channel, the divisor; None likewise.
      crop_fraction: The share of an image's height and width that evaluation sees, in
        the middle.
    """

    shape: tuple[int, int, int]
    dtype: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    crop_fraction: float = 1.0

    @property
    def specification(self) -> jax.ShapeDtypeStruct:
        """A batch of one image."""
        return jax.ShapeDtypeStruct((1, *self.shape), jnp.dtype(self.dtype))

    def prepare(self, images: jax.Array) -> jax.Array:
        """Normalises uint8 images, and casts others."""
        dtype = jnp.dtype(self.dtype)
        if self.mean is None or self.std is None:
            return images.astype(dtype)
        return data.normalize(images, mean=self.mean, std=self.std, dtype=dtype)


def image_format(
    config: TrainConfig,
    train: data.Source | data.Batches,
    split: data.Source | data.Batches | None = None,
) -> ImageFormat:
    """Returns the format of a split's images.

    Args:
      config: The run's configuration.
      train: The training split, whose statistics may be what is normalised with.
      split: The split; None for the training split itself.

    Raises:
      ValueError: If the images of a stream differ in size and the configuration does
        not say what to bring them to, or it has a mean for floating-point images or
        for another number of channels, or a crop may have none of the image.
    """
    mean, std = _channel_statistics(config, train)
    split = train if split is None else split
    shape = image_shape(config, split)
    if config.crop_padding >= min(shape[:2]):
        raise ValueError(
            f"crop_padding: got {config.crop_padding} for images of {shape[0]} x "
            f"{shape[1]}, expected 0 to {min(shape[:2]) - 1}: a crop further out has "
            "none of the image."
        )
    is_whole = isinstance(split, data.Dataset | data.Batches)
    return ImageFormat(
        shape,
        config.dtype,
        mean,
        std,
        1.0 if is_whole else 0.875,
    )


def image_shape(
    config: TrainConfig, source: data.Source | data.Batches
) -> tuple[int, int, int]:
    """Returns `(height, width, channels)` of the images that the model gets.

    Raises:
      ValueError: If the images of a stream differ in size and the configuration does
        not say what to bring them to.
    """
    if isinstance(source, data.Dataset | data.Batches):
        return source.image_shape
    if config.image_size is not None:
        channels = source.features.image_shape[2]
        return (config.image_size, config.image_size, channels)
    raise ValueError(
        f"image_size: got None for {source.name!r}, which is streamed; expected the "
        "height and width to cut its images to."
    )


def pixel_dtype(source: data.Source | data.Batches) -> np.dtype[Any]:
    """Returns the dtype of a split's images before `ImageFormat.prepare`."""
    if isinstance(source, data.Dataset):
        return source.images.dtype
    return source.dtype if isinstance(source, data.Batches) else np.dtype(np.uint8)


def augment(
    key: jax.Array,
    batch: data.Arrays,
    config: TrainConfig,
    num_classes: int,
    images: ImageFormat,
) -> tuple[data.Arrays, jax.Array]:
    """Crops, flips, normalises, erases and mixes a batch; traced in the step.

    Args:
      key: The step's key.
      batch: `{"image", "label"}` from the feed.
      config: The run's configuration, which says what is done.
      num_classes: For mixtures of labels.
      images: The format that the model gets.

    Returns:
      The batch, and the key for what the model draws at random.
    """
    crop_key, flip_key, model_key = jax.random.split(key, 3)
    erase_key, mix_key = (jax.random.fold_in(key, number) for number in (3, 4))
    pixels, labels = batch["image"], batch["label"]
    pixels = data.random_crop(crop_key, pixels, config.crop_padding)
    if config.flip:
        pixels = data.random_flip(flip_key, pixels)
    pixels = data.random_erasing(
        erase_key, images.prepare(pixels), config.erasing_probability
    )
    if config.mixup_alpha or config.cutmix_alpha:
        pixels, labels = data.mixup_or_cutmix(
            mix_key,
            pixels,
            data.one_hot_targets(labels, num_classes),
            mixup_alpha=config.mixup_alpha,
            cutmix_alpha=config.cutmix_alpha,
        )
    return {**batch, "image": pixels, "label": labels}, model_key


def _channel_statistics(
    config: TrainConfig, train: data.Source | data.Batches
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Returns the mean and deviation per channel that images are normalised with."""
    if pixel_dtype(train) != np.uint8:
        if config.mean is not None:
            raise ValueError(
                f"mean: got {config.mean} for floating-point images, which go to the "
                "model as they are; expected None, or uint8 images."
            )
        return None, None
    if config.mean is not None and config.std is not None:
        channels = image_shape(config, train)[2]
        if len(config.mean) != channels:
            raise ValueError(
                f"mean: got {len(config.mean)} numbers for images of {channels} "
                f"channels, expected {channels} in mean and in std."
            )
        return config.mean, config.std
    if isinstance(train, data.Dataset):
        mean, std = train.channel_statistics
        # A constant channel has no deviation to divide by; it becomes zero.
        return mean, tuple(deviation or 1.0 for deviation in std)
    # A stream's own would take a pass over it.
    channels = image_shape(config, train)[2]
    return IMAGENET_MEAN[:channels], IMAGENET_STD[:channels]
