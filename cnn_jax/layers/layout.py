"""Errors for inputs whose channels are not on the axis that a layer expects.

Flax's own error blames a parameter's shape, although the input is wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax

from cnn_jax.geometry import layout_hint


def check_layout(
    layer: nn.Module,
    x: jax.Array,
    parameter: str,
    num_channels: Callable[[tuple[int, ...]], int],
) -> None:
    """Raises ValueError if `x` would fit the layer's parameters, channels moved last.

    Args:
      layer: The layer, in its call.
      x: Its input.
      parameter: The '/'-joined path of a parameter, which may not be there yet.
      num_channels: Maps that parameter's shape to the number of channels it is for.
    """
    stored = layer.variables.get("params", {})
    for name in parameter.split("/"):
        if name not in stored:
            return
        stored = stored[name]
    shape = nn.meta.unbox(stored).shape
    channels = num_channels(shape)
    # A filter fits images of its own number of dimensions, all else any.
    hint = layout_hint(
        x.shape,
        channels,
        fits=lambda moved: len(shape) <= 2 or len(moved) == len(shape),
    )
    if hint:
        raise ValueError(
            f"{type(layer).__name__}: got x {x.shape} for a {parameter} {shape}, "
            f"expected {channels} channels{hint}."
        )
