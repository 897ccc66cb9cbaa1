"""The base of all models, checks of their input, and the endpoints of their output."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax.geometry import MOST_IMAGE_CHANNELS, layout_hint, looks_channels_first

Output = jax.Array | tuple[jax.Array, dict[str, jax.Array]]
"""The logits, or with `endpoints=True` the logits and the named features."""


class ImageNetwork(nn.Module, kw_only=True):
    """A network that reads images `(n, height, width, channels)`.

    Attributes:
      in_channels: The number of channels of the images, which are refused with another
        one. None takes the number that the parameters were made with.
    """

    in_channels: int | None = None


def check_images(network: ImageNetwork, x: jax.Array, *, minimum_size: int) -> None:
    """Checks a network's input before anything is traced.

    Args:
      network: The network.
      x: Normalised images `(n, height, width, channels)`.
      minimum_size: The least height and width that leave something to the last stage.

    Raises:
      ValueError: If the rank, the dtype, the size or the number of channels is not what
        the network takes.
    """
    model = type(network).__name__

    def takes(shape):
        has_channels = network.in_channels in (None, shape[3])
        return has_channels and min(shape[1:3]) >= minimum_size

    if x.ndim != 4:
        raise ValueError(
            f"{model}: got an input of shape {x.shape}, expected (n, height, width, "
            f"channels){_batch_hint(x.shape, takes)}."
        )
    if x.shape[1] <= MOST_IMAGE_CHANNELS and looks_channels_first(x.shape):
        raise ValueError(
            f"{model}: got an input of shape {x.shape}, expected (n, height, width, "
            f"{network.in_channels or 'channels'}) of at least {minimum_size} x "
            f"{minimum_size}{layout_hint(x.shape, x.shape[1], fits=takes)}."
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"{model}: got an input of dtype {x.dtype}, expected floating-point "
            "numbers; scale and normalise the images first."
        )
    if min(x.shape[1:3]) < minimum_size:
        raise ValueError(
            f"{model}: got images of {x.shape[1]} x {x.shape[2]}, expected at least "
            f"{minimum_size} x {minimum_size}; resize them."
        )
    if network.in_channels not in (None, x.shape[3]):
        raise ValueError(
            f"{model}: got an input of shape {x.shape}, expected (n, height, width, "
            f"{network.in_channels}), as the model's in_channels says; give it such "
            f"images, or make one with in_channels={x.shape[3]}."
        )


def _batch_hint(
    shape: tuple[int, ...], takes: Callable[[tuple[int, ...]], bool]
) -> str:
    """Says how to add the batch axis to a single image that a network takes."""
    if len(shape) != 3:
        return ""
    if looks_channels_first((1, *shape)) and takes((1, *shape[1:], shape[0])):
        return "; x looks like CHW, one example: jnp.moveaxis(x, 0, -1)[None]"
    if takes((1, *shape)):
        return "; add a batch dimension to a single image: x[None]"
    return ""


def finish(output: jax.Array, named: dict[str, jax.Array], endpoints: bool) -> Output:
    """Returns a model's output in at least float32, with its endpoints if requested."""
    if jnp.finfo(output.dtype).bits < 32:
        output = output.astype(jnp.float32)
    return (output, named) if endpoints else output
