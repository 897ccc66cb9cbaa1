"""Mixtures of two images of a batch, and of their labels: mixup and CutMix.

Targets are probabilities, so that a mixture of two classes is one. What is drawn is a
function of its own, and the mixing is a plain formula of what was drawn.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cnn_jax.data.device.erase import inside
from cnn_jax.kernels.operands import class_indices


def one_hot_targets(labels: jax.Array, num_classes: int) -> jax.Array:
    """Returns float32 probabilities `(n, num_classes)` for integer labels `(n,)`.

    Raises:
      ValueError: If the labels are no integers.
    """
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise ValueError(
            f"labels: got {jnp.result_type(labels)}, expected an integer dtype."
        )
    return jax.nn.one_hot(class_indices(labels), num_classes, dtype=jnp.float32)


def draw_share(key: jax.Array, alpha: float) -> jax.Array:
    """Returns a share from Beta(alpha, alpha), a float32 scalar.

    Raises:
      ValueError: If `alpha` is not positive.
    """
    if alpha <= 0:
        raise ValueError(f"alpha: got {alpha}, expected a number above 0.")
    return jax.random.beta(key, alpha, alpha, dtype=jnp.float32)


def mixup(
    key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Adds to each image another one of the batch (Zhang et al. 2018).

    With a share `s` from Beta(alpha, alpha), one for the batch, images and targets
    become `s a + (1 - s) b`, `b` being the batch backwards.

    Args:
      key: A `jax.random` key.
      images: Floating, shape `(n, height, width, channels)`.
      targets: Probabilities, shape `(n, classes)`.
      alpha: Near 0, most mixtures are nearly one image; at 1 all shares are alike.

    Returns:
      Images and targets of the same shapes and dtypes; each row of targets still sums
      to 1.

    Raises:
      ValueError: If `alpha` is not positive, `images` are integers or `targets` no
        probabilities.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images: got {images.dtype}, expected a floating dtype.")
    _check_targets(targets, images)
    share = draw_share(key, alpha)
    return _blend(images, images[::-1], share), _blend(targets, targets[::-1], share)


def draw_box(
    key: jax.Array, height: int, width: int, share: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Draws a box that holds `1 - share` of an image, cut off at its edges.

    Args:
      key: A `jax.random` key.
      height: Of the image.
      width: Of the image.
      share: Of the image that stays, if nothing is cut off.

    Returns:
      Rows `top` to `bottom` and columns `left` to `right`, the ends excluded, as int32
      scalars `(top, bottom, left, right)`. The centre is uniform over the image.
    """
    side = jnp.sqrt(1 - share)
    row_key, column_key = jax.random.split(key)

    def interval(key, length):
        half = jnp.floor(side * length / 2).astype(jnp.int32)
        center = jax.random.randint(key, (), 0, length)
        return jnp.maximum(center - half, 0), jnp.minimum(center + half, length)

    return (*interval(row_key, height), *interval(column_key, width))


def cutmix(
    key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Pastes a box of another image of the batch into each (Yun et al. 2019).

    Args:
      key: A `jax.random` key.
      images: Any dtype, shape `(n, height, width, channels)`.
      targets: Probabilities, shape `(n, classes)`.
      alpha: Of the Beta distribution of the share that stays.

    Returns:
      Images and targets; targets are mixed by the area that the box really covers.

    Raises:
      ValueError: If `alpha` is not positive, or `targets` are no probabilities.
    """
    _check_targets(targets, images)
    share_key, box_key = jax.random.split(key)
    height, width = images.shape[1:3]
    box = draw_box(box_key, height, width, draw_share(share_key, alpha))
    top, bottom, left, right = box
    edges = tuple(edge[None] for edge in box)  # one box for the whole batch
    pasted = jnp.where(inside(edges, height, width), images[::-1], images)
    area = (bottom - top) * (right - left) / (height * width)
    share = 1 - area.astype(targets.dtype)
    return pasted, _blend(targets, targets[::-1], share)


def mixup_or_cutmix(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
) -> tuple[jax.Array, jax.Array]:
    """Applies mixup, CutMix, or for each batch one of them, with even chances.

    Args:
      key: A `jax.random` key.
      images: Floating, shape `(n, height, width, channels)`.
      targets: Probabilities, shape `(n, classes)`.
      mixup_alpha: 0 leaves mixup out.
      cutmix_alpha: 0 leaves CutMix out.

    Returns:
      Images and targets, unchanged if both are left out.
    """
    if not mixup_alpha and not cutmix_alpha:
        return images, targets
    if not cutmix_alpha:
        return mixup(key, images, targets, mixup_alpha)
    if not mixup_alpha:
        return cutmix(key, images, targets, cutmix_alpha)
    choice_key, key = jax.random.split(key)
    return jax.lax.cond(
        jax.random.bernoulli(choice_key),
        lambda: mixup(key, images, targets, mixup_alpha),
        lambda: cutmix(key, images, targets, cutmix_alpha),
    )


def _check_targets(targets: jax.Array, images: jax.Array) -> None:
    # A share of 0.7 of an integer would be 0 of it.
    is_row_each = targets.ndim == 2 and len(targets) == len(images)
    if not (is_row_each and jnp.issubdtype(targets.dtype, jnp.floating)):
        raise ValueError(
            f"targets: got {targets.dtype}{list(targets.shape)}, expected floating "
            f"probabilities ({len(images)}, classes); one_hot_targets makes them."
        )


def _blend(first: jax.Array, second: jax.Array, share: jax.Array) -> jax.Array:
    share = share.astype(first.dtype)
    return share * first + (1 - share) * second
