"""Checks of a model's input, and the endpoints of its output."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cnn_jax.geometry import MOST_IMAGE_CHANNELS, layout_hint, looks_channels_first

Output = jax.Array | tuple[jax.Array, dict[str, jax.Array]]
"""The logits, or with `endpoints=True` the logits and the named features."""


def check_images(x: jax.Array, *, minimum_size: int, model: str) -> None:
    """Checks a model's input before anything is traced.

    Args:
      x: Normalised images `(n, height, width, channels)`.
      minimum_size: The least height and width that leave something to the last stage.
      model: The model's class name, for the message.

    Raises:
      ValueError: If the rank, the dtype or the size is not what the model takes.
    """
    if x.ndim != 4:
        raise ValueError(
            f"{model}: got an input of shape {x.shape}, expected (n, height, width, "
            f"channels); add a batch dimension to a single image: {_batched(x.shape)}."
        )
    if x.shape[1] <= MOST_IMAGE_CHANNELS and looks_channels_first(x.shape):
        raise ValueError(
            f"{model}: got an input of shape {x.shape}, expected (n, height, width, "
            f"channels){layout_hint(x.shape, x.shape[1])}."
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


def _batched(shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and looks_channels_first((1, *shape)):
        return "jnp.moveaxis(x, 0, -1)[None] (x looks like CHW)"
    return "x[None]"


def finish(output: jax.Array, named: dict[str, jax.Array], endpoints: bool) -> Output:
    """Returns a model's output in at least float32, with its endpoints if requested."""
    if jnp.finfo(output.dtype).bits < 32:
        output = output.astype(jnp.float32)
    return (output, named) if endpoints else output
