"""Crops, flips and normalisation."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def random_crop(key: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """Shifts each image by up to `padding` pixels in both directions.

    It is the crop of He et al. (2015): pad with `padding` zeros on all sides, then cut
    a window of the original size out at a place drawn uniformly for each image.

    Args:
      key: A `jax.random` key.
      images: Shape `(n, height, width, channels)`.
      padding: Zeros on each side; 0 returns the images as they are.

    Returns:
      Images of the same shape and dtype.

    Raises:
      ValueError: If `padding` is negative, or 2^30 or more.
    """
    padding = operator.index(padding)  # a NumPy integer may be too narrow for twice it
    if not 0 <= padding < 2**30:  # twice it must be an int32
        raise ValueError(f"padding: got {padding}, expected 0 or more, below 2^30.")
    if padding == 0:
        return images
    num_images = images.shape[0]
    # A window further out than an image's own side has none of it, however far it is.
    reach = tuple(min(padding, side) for side in images.shape[1:3])
    sides = ((0, 0), *((margin, margin) for margin in reach), (0, 0))
    offsets = jax.random.randint(key, (num_images, 2), 0, 2 * padding + 1)
    if reach != (padding, padding):
        margins = jnp.asarray(reach, offsets.dtype)[jnp.newaxis]
        offsets = jnp.clip(offsets - padding, -margins, margins) + margins

    def cut(image: jax.Array, offset: jax.Array) -> jax.Array:
        start = (offset[0], offset[1], jnp.zeros_like(offset[0]))
        return jax.lax.dynamic_slice(image, start, images.shape[1:])

    return jax.vmap(cut)(jnp.pad(images, sides), offsets)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability one half.

    Args:
      key: A `jax.random` key.
      images: Shape `(n, height, width, channels)`.

    Returns:
      Images of the same shape and dtype.
    """
    flipped = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def normalize(
    images: jax.Array,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
    """Scales pixels to [0, 1], then to the given mean and deviation per channel.

    Args:
      images: uint8, shape `(n, height, width, channels)`.
      mean: One number per channel, of pixels scaled to [0, 1].
      std: One positive number per channel, likewise.
      dtype: The floating dtype of the result; the arithmetic is float32 at least.

    Returns:
      `(images / 255 - mean) / std` in `dtype`.

    Raises:
      ValueError: If `mean` and `std` do not have one entry per channel, or an entry of
        `std` is not positive.
    """
    channels = images.shape[-1]
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise ValueError(
            f"mean, std: got {tuple(mean)} and {tuple(std)}, expected {channels} "
            "entries each, one per channel, and positive deviations."
        )
    compute_dtype = jnp.promote_types(dtype, jnp.float32)
    factor = 1 / (255 * np.asarray(std, np.float64))
    summand = -np.asarray(mean, np.float64) / np.asarray(std, np.float64)
    scale, shift = (
        jnp.asarray(row.reshape(1, 1, 1, channels), compute_dtype)
        for row in (factor, summand)
    )
    return (images.astype(compute_dtype) * scale + shift).astype(dtype)
