"""First filters of RGB weights, made into filters of another number of channels.

Grey images are colour images whose channels are equal, so that the filters' sum over
the channels does the same to them. With more channels than three, the filters are
repeated in turn (R, G, B, R, ...) and scaled by `3 / channels`: as many equal channels
then give what three of them gave. It is what timm does (`in_chans`), and what it does
with two channels is the same. Filters of another number of channels than three stay as
they are: nobody knows what their channels mean.

Mean and deviation go with the filters: for grey images the mean of the three, for more
channels the three in turn. A grey image gets just what its three copies got where the
three are equal, as EfficientNet-Lite's are, or Inception's. Where they differ, as
ImageNet's (0.485, 0.456, 0.406), each channel's share of the first layer's response
moves a little.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

RGB = 3
"""The number of channels of the filters that can be converted."""


def convert_filters(filters: np.ndarray, channels: int) -> np.ndarray:
    """Returns filters for images of another number of channels.

    Args:
      filters: `(*spatial, 3, features)`.
      channels: The number.

    Returns:
      `(*spatial, channels, features)`, of float32 or the filters' own wider dtype.
    """
    wide = filters.astype(np.promote_types(filters.dtype, np.float32), copy=False)
    if channels == 1:
        return wide.sum(axis=-2, keepdims=True)
    return wide[..., np.arange(channels) % RGB, :] * (RGB / channels)


def convert_preprocessing(said: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Returns what goes with converted filters; see `Provenance.preprocessing`.

    Args:
      said: What the weights say of RGB images.
      channels: The number of channels that the filters are for now.
    """
    converted = dict(said)
    for name in ("mean", "std"):
        if said.get(name) is not None:
            converted[name] = _per_channel(said[name], channels)
    if "input_shape" in said:
        converted["input_shape"] = (*said["input_shape"][:2], channels)
    return converted


def describe(before: int, channels: int) -> str:
    """Says in a few words what was done to filters of `before` channels."""
    done = (
        "summed" if channels == 1 else f"repeated and scaled by {before} / {channels}"
    )
    return f"{before} to {channels} channels, {done}"


def _per_channel(values: Any, channels: int) -> list[float]:
    if channels == 1:
        return [statistics.fmean(values)]
    return [values[channel % len(values)] for channel in range(channels)]
