"""The images that a model gets: how they are prepared, chosen once for a whole run.

Each field of the preparation is what the configuration says; else what the weights say
that the run starts from; else what follows from the data: images of the input's own
size and small ones are seen whole, and random weights get images of one size normalised
by their own mean and deviation; else the model's own, else ImageNet's. It depends on
the images and not on the path by which they reach the devices.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import data
from cnn_jax.models import list_models, model_info
from cnn_jax.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    SMALL_SIDE,
    Preprocessing,
    known_fields,
    unrecorded_crop,
)
from cnn_jax.training.config import TrainConfig

CROP_FIELDS = ("crop_fraction", "crop_mode", "interpolation")
"""Fields of the configuration and of `Preprocessing` that are about the images' size.
"""

PREPARATION_FIELDS = ("mean", "std", *CROP_FIELDS)
"""All fields of the configuration that are fields of `Preprocessing`, too."""


@dataclasses.dataclass(frozen=True)
class ImageFormat:
    """The images that the model gets.

    Attributes:
      shape: `(height, width, channels)`.
      dtype: The name of their floating-point dtype.
      preprocessing: How they are prepared. Mean and deviation are None for
        floating-point images, which are not normalised; `size` is the height of images
        that are not square, which nothing resizes.
    """

    shape: tuple[int, int, int]
    dtype: str
    preprocessing: Preprocessing

    @classmethod
    def of(cls, preprocessing: Preprocessing, dtype: str = "float32") -> ImageFormat:
        """Returns the format of images that are prepared so."""
        return cls(preprocessing.input_shape, dtype, preprocessing)

    @property
    def mean(self) -> tuple[float, ...] | None:
        """Per channel, subtracted from pixels in [0, 1]; None for floating-point."""
        return self.preprocessing.mean

    @property
    def std(self) -> tuple[float, ...] | None:
        """Per channel, the divisor; None likewise."""
        return self.preprocessing.std

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

    def evaluated(self, split: data.Dataset) -> data.Dataset:
        """Returns a set in memory as evaluation sees it, see `data.evaluated`."""
        if split.image_shape == self.shape and self.shape[0] != self.shape[1]:
            return split  # nothing resizes images that are not square
        return data.evaluated(split, self.preprocessing)

    def trained(self, split: data.Dataset) -> data.Dataset:
        """Returns a set in memory as training sees it.

        Images that were resized when they were read are those that a stream trains on
        by the policy `none`: all that the crop mode shows of them.
        """
        if split.origin is None:
            return split
        whole = dataclasses.replace(self.preprocessing, crop_fraction=1.0)
        return dataclasses.replace(self, preprocessing=whole).evaluated(split)

    def to_dict(self) -> dict[str, Any]:
        """Returns what a run records of its images, for JSON."""
        return {**self.preprocessing.to_dict(), "input_shape": list(self.shape)}


def image_format(
    config: TrainConfig,
    train: data.Source | data.Batches,
    *,
    weights: Mapping[str, Any] | None = None,
) -> ImageFormat:
    """Returns the format of a run's images.

    Args:
      config: The run's configuration.
      train: The training split. Where neither configuration nor weights say what to
        normalise with, and a stream's images are of one size and few, all are read for
        their mean and deviation.
      weights: What the weights say that the run starts from, see
        `cnn_jax.pretrained.Provenance`.

    Raises:
      ValueError: If the images of a stream differ in size and the configuration does
        not say what to bring them to, it has a mean or a crop for images that go to
        the model as they are, or a mean for another number of channels, or a crop may
        have none of the image.
    """
    shape = image_shape(config, train)
    if config.crop_padding >= min(shape[:2]):
        raise ValueError(
            f"crop_padding: got {config.crop_padding} for images of {shape[0]} x "
            f"{shape[1]}, expected 0 to {min(shape[:2]) - 1}: a crop further out has "
            "none of the image."
        )
    _check_fields(config, train, shape)
    said = known_fields(weights or {})
    # Once: headers of images may be read for it.
    size = shape[:2] if isinstance(train, data.Batches) else data.own_size(train)
    fields = _of_data(train, size, shape, said)
    if shape[0] <= SMALL_SIDE or size == shape[:2]:
        fields["crop_fraction"] = 1.0
    if shape[0] <= SMALL_SIDE < said.get("size", 0):
        said.pop("crop_fraction", None)  # that is for large images
    if _reason_to_keep(train, shape) is None:
        fields |= {name: said[name] for name in CROP_FIELDS if name in said}
    fields |= _given(config, *CROP_FIELDS)
    model = _model_preprocessing(config.model).at(shape[0])
    how = dataclasses.replace(
        model, mean=None, std=None, channels=shape[2], size=shape[0], **fields
    )
    if pixel_dtype(train) == np.uint8:
        mean, std = _normalization(config, train, size, said, model, how)
        how = dataclasses.replace(how, mean=mean, std=std)
    return ImageFormat(shape, config.dtype, how)


def recorded_format(
    images: ImageFormat,
    recorded: Mapping[str, Any],
    config: TrainConfig,
    train: data.Source | data.Batches,
) -> ImageFormat:
    """Returns the format of a run that is resumed: the one that it was begun with.

    Args:
      images: The format that it would have if it were begun now.
      recorded: What its checkpoint says of its images. Runs of older versions may lack
        the crop's mode and interpolation, all of the crop, or everything.
      config: The run's configuration, whose fields are the run's own by now.
      train: The training split.
    """
    fields = known_fields(recorded)
    for name in ("size", "channels"):
        fields.pop(name, None)
    if images.mean is None or fields.get("mean", ()) is None:
        fields = {name: fields[name] for name in CROP_FIELDS if name in fields}
    elif "mean" not in fields:
        fields |= _unrecorded_normalization(train, images.shape[2])
    if "crop_mode" not in fields:
        old = unrecorded_crop(
            is_stream=not isinstance(train, data.Dataset | data.Batches),
            is_resized=isinstance(train, data.Dataset) and train.origin is not None,
        )
        fields = old | fields
    fields |= _given(config, *CROP_FIELDS)
    if images.mean is not None:
        fields |= _given(config, "mean", "std")
    how = dataclasses.replace(images.preprocessing, **fields)
    return dataclasses.replace(images, preprocessing=how)


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


def _given(config: TrainConfig, *names: str) -> dict[str, Any]:
    """Returns the fields that the configuration has a value for."""
    return {
        name: value for name in names if (value := getattr(config, name)) is not None
    }


def _check_fields(
    config: TrainConfig,
    train: data.Source | data.Batches,
    shape: tuple[int, int, int],
) -> None:
    """Checks what the configuration says of the images."""
    is_bytes = pixel_dtype(train) == np.uint8
    if not is_bytes and config.mean is not None:
        raise ValueError(
            f"mean: got {config.mean} for floating-point images, which go to the "
            "model as they are; expected None, or uint8 images."
        )
    if config.mean is not None and len(config.mean) != shape[2]:
        raise ValueError(
            f"mean: got {len(config.mean)} numbers for images of {shape[2]} channels, "
            f"expected {shape[2]} in mean and in std."
        )
    reason = _reason_to_keep(train, shape)
    given = _given(config, *CROP_FIELDS)
    if reason is not None and given:
        name, value = next(iter(given.items()))
        raise ValueError(
            f"{name}: got {value!r} for {reason}, which go to the model as they are; "
            "expected None."
        )


def _reason_to_keep(
    train: data.Source | data.Batches, shape: tuple[int, int, int]
) -> str | None:
    """Returns what images are that nothing crops or resizes; None for all others."""
    if pixel_dtype(train) != np.uint8:
        return "floating-point images"
    if isinstance(train, data.Batches):
        return "an iterable of batches"
    if shape[0] != shape[1]:
        return f"images of {shape[0]} x {shape[1]} in memory"
    return None


def _of_data(
    train: data.Source | data.Batches,
    size: tuple[int, int] | None,
    shape: tuple[int, int, int],
    said: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns how images of one size are brought to the input's if they are small.

    They are brought to it as sets in memory are, whose training images are no others.
    """
    if size is None or size == shape[:2] or isinstance(train, data.Batches):
        return {}
    if not data.is_small(train, size):
        return {}
    side = shape[0]
    how = data.stored(side, shape[2])
    is_near = data.eval_transform(how).pads(size)
    if not (is_near or side <= SMALL_SIDE) or "crop_mode" in said:
        return {}
    return {name: getattr(how, name) for name in CROP_FIELDS}


def _model_preprocessing(name: str) -> Preprocessing:
    """Returns what the registry says of a model; ImageNet's for the caller's own."""
    if name in list_models():
        return model_info(name).preprocessing
    return Preprocessing(224)


def _normalization(
    config: TrainConfig,
    train: data.Source | data.Batches,
    size: tuple[int, int] | None,
    said: Mapping[str, Any],
    model: Preprocessing,
    how: Preprocessing,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the mean and deviation per channel that images are normalised with."""
    if config.mean is not None and config.std is not None:
        return config.mean, config.std
    channels = how.channels
    if None not in (said.get("mean"), said.get("std")):
        mean, std = said["mean"], said["std"]
    elif _has_own_statistics(config, train, size, how):
        assert not isinstance(train, data.Batches)  # those have none
        return _own_statistics(train, how.size)
    elif model.channels == channels and model.mean and model.std:
        return model.mean, model.std
    else:
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    if len(mean) == channels:
        return mean, std
    return (statistics.fmean(mean),) * channels, (statistics.fmean(std),) * channels


def _unrecorded_normalization(
    train: data.Source | data.Batches, channels: int
) -> dict[str, Any]:
    """Returns mean and deviation in runs of versions that did not record them.

    A configuration that has them goes before.
    """
    mean, std = IMAGENET_MEAN[:channels], IMAGENET_STD[:channels]
    if isinstance(train, data.Dataset):
        mean, std = _own_statistics(train, train.image_shape[0])
    return {"mean": mean, "std": std}


def _own_statistics(
    train: data.Source, size: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the images' own mean and deviation per channel, to normalise with."""
    mean, std = data.channel_statistics(train, size)
    # A constant channel has no deviation to divide by; it becomes zero.
    return mean, tuple(deviation or 1.0 for deviation in std)


def _has_own_statistics(
    config: TrainConfig,
    train: data.Source | data.Batches,
    size: tuple[int, int] | None,
    how: Preprocessing,
) -> bool:
    """Returns whether images are normalised by their own mean and deviation."""
    # The colour of a border is the mean.
    if (
        isinstance(train, data.Batches)
        or config.pretrained is not None
        or how.crop_mode == "border"
    ):
        return False
    if isinstance(train, data.Dataset) and train.origin is None:
        return True
    return data.is_small(train, size)
