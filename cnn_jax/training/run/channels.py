"""The number of channels that a run's network sees, and the images that it gets so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cnn_jax import data, messages, trees
from cnn_jax.data.channels import GREY, RGB
from cnn_jax.layers import abstract_variables
from cnn_jax.models.registry import in_channels_of
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.devices.processes import is_main_process

ImageShape = tuple[int | None, int | None, int]
"""None for a side that varies."""


def input_channels(
    config: TrainConfig,
    model: Any,
    image: ImageShape,
    variables: Mapping[str, Any] | None = None,
) -> int:
    """Returns how many channels the images have that a network gets.

    Args:
      config: The run's configuration, which may say it.
      model: The network, which may have been made for a number.
      image: `(height, width, channels)` of the training split's images.
      variables: What the network starts from. Grey images become three channels where
        its first filters are RGB's; None for what fits the split.

    Raises:
      ValueError: If configuration and model disagree.
    """
    asked, own = config.in_channels, in_channels_of(model)
    if None not in (asked, own) and asked != own:
        raise ValueError(
            f"in_channels: got {asked} for a {type(model).__name__} that was made with "
            f"in_channels={own}; expected one number."
        )
    said = own if asked is None else asked
    if said is not None or variables is None or image[2] != GREY:
        return said or image[2]
    height, width = (side or config.image_size for side in image[:2])
    if height is None or width is None:
        return GREY
    return RGB if _are_for_rgb(model, variables, height, width) else GREY


def weights_channels(
    config: TrainConfig,
    model: Any,
    image: ImageShape,
    stored: Callable[[], int],
) -> int:
    """Returns the same for a network that is to be filled with weights from a file.

    Args:
      config: The run's configuration.
      model: The network.
      image: `(height, width, channels)` of the training split's images.
      stored: Returns how many channels the weights are for; called if it matters.
    """
    channels = input_channels(config, model, image)
    is_open = config.in_channels is None and in_channels_of(model) is None
    return RGB if is_open and channels == GREY and stored() == RGB else channels


def with_input_channels(splits: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Returns splits with so many channels; says it where that changes the images.

    Args:
      splits: The splits by name.
      channels: The number, from `input_channels`.

    Raises:
      ValueError: As `data.with_channels`.
    """
    found = data.num_channels(splits["train"])
    converted = {
        name: data.with_channels(split, channels) for name, split in splits.items()
    }
    if found != channels and is_main_process():
        is_grey = found < channels
        done = f"grey, repeated to {channels} channels" if is_grey else "made grey"
        messages.say(f"images: {done}")
    return converted


def _are_for_rgb(
    model: Any, variables: Mapping[str, Any], height: int, width: int
) -> bool:
    """Returns whether variables have filters for RGB where they may be for grey."""

    def shapes(channels: int) -> dict[str, tuple[int, ...]]:
        images = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
        found = abstract_variables(model, images)
        return {path: leaf.shape for path, leaf in trees.named_leaves(found).items()}

    try:
        grey, rgb = shapes(GREY), shapes(RGB)
        given = trees.named_leaves(variables)
    except Exception:  # the checks of the model and its variables say what is wrong
        return False
    filters = [path for path, shape in rgb.items() if grey.get(path) != shape]
    return bool(filters) and all(
        path in given and jnp.shape(given[path]) == rgb[path] for path in filters
    )
