"""Random erasing of batches on the device."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

AREA = (0.02, 0.4)
RATIO = 0.3


def draw_rectangles(
    key: jax.Array, num_images: int, height: int, width: int, probability: float
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Draws a rectangle for each image, empty for those that are left alone.

    The share of the area is uniform in `AREA`, height over width log-uniform between
    `RATIO` and its inverse (Zhong et al. 2020); a rectangle longer than the image is
    shortened to it, where the paper draws again.

    Returns:
      `(top, bottom, left, right)`, int32 of shape `(n,)` each, ends excluded.
    """
    keys = jax.random.split(key, 5)
    n = (num_images,)
    area = jax.random.uniform(keys[0], n, minval=AREA[0], maxval=AREA[1])
    bound = -math.log(RATIO)
    ratio = jnp.exp(jax.random.uniform(keys[1], n, minval=-bound, maxval=bound))
    area = area * (height * width)
    erased = jax.random.bernoulli(keys[2], probability, n)

    def interval(key, side, length):
        side = jnp.where(erased, jnp.clip(jnp.round(side), 1, length), 0)
        side = side.astype(jnp.int32)
        start = jax.random.randint(key, n, 0, length - side + 1)
        return start, start + side

    top, bottom = interval(keys[3], jnp.sqrt(area * ratio), height)
    left, right = interval(keys[4], jnp.sqrt(area / ratio), width)
    return top, bottom, left, right


def random_erasing(key: jax.Array, images: jax.Array, probability: float) -> jax.Array:
    """Replaces a random rectangle of some images by noise.

    Args:
      key: A `jax.random` key.
      images: Normalised, floating, shape `(n, height, width, channels)`: the noise is
        standard normal, as the pixels are by then.
      probability: The share of images that lose a rectangle.

    Returns:
      Images of the same shape and dtype.

    Raises:
      ValueError: If `probability` is not in [0, 1] or `images` are integers.
    """
    if not 0 <= probability <= 1:
        raise ValueError(
            f"probability: got {probability}, expected a number in [0, 1]."
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images: got {images.dtype}, expected a floating dtype.")
    if probability == 0:
        return images
    num_images, height, width, _ = images.shape
    draw_key, noise_key = jax.random.split(key)
    rectangles = draw_rectangles(draw_key, num_images, height, width, probability)
    noise = jax.random.normal(noise_key, images.shape, images.dtype)
    return jnp.where(inside(rectangles, height, width), noise, images)


def inside(rectangles: tuple[jax.Array, ...], height: int, width: int) -> jax.Array:
    """Marks the pixels of a rectangle per image, shape `(n, height, width, 1)`."""
    top, bottom, left, right = (edge[:, None] for edge in rectangles)
    rows, columns = jnp.arange(height)[None], jnp.arange(width)[None]
    in_rows = (rows >= top) & (rows < bottom)
    in_columns = (columns >= left) & (columns < right)
    return (in_rows[:, :, None] & in_columns[:, None, :])[..., None]
