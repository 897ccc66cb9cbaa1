"""Contact sheets: 64 pictures of what each policy makes of two photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from cnn_jax import data
from cnn_jax.data import device, host
from cnn_jax.report import html, images

SIDE = 64
"""Pixels of each picture; there are as many pictures."""

MEAN, STD = (0.5,) * 3, (0.25,) * 3


def photographs() -> list[Image.Image]:
    """Returns two photographs that come with scikit-learn."""
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


def host_sheets() -> Iterator[html.Picture]:
    """Yields a sheet for every policy: 32 draws of each photograph."""
    for policy in host.POLICIES:
        pictures = _draws(policy, lambda number: number // 32)
        yield _picture(policy, pictures, "64 draws, half of each photograph")


def device_sheets() -> Iterator[html.Picture]:
    """Yields a sheet for every transform of batches: eight batches, each a row."""
    # A batch backwards, which is what it is mixed with, has the other photographs.
    batch = jnp.asarray(_draws("none", lambda number: number % 2)[:8])
    floats = device.normalize(batch, MEAN, STD)
    targets = device.one_hot_targets(jnp.arange(8) % 2, 2)
    transforms: dict[str, Callable[[jax.Array], jax.Array]] = {
        "crop by 8 pixels and flip": lambda key: device.normalize(
            device.random_flip(
                key, device.random_crop(jax.random.fold_in(key, 1), batch, 8)
            ),
            MEAN,
            STD,
        ),
        "erasing of half": lambda key: device.random_erasing(key, floats, 0.5),
        "mixup": lambda key: device.mixup(key, floats, targets, 1.0)[0],
        "CutMix": lambda key: device.cutmix(key, floats, targets, 1.0)[0],
    }
    for name, transform in transforms.items():
        rows = [
            np.asarray(transform(key)) for key in jax.random.split(jax.random.key(0), 8)
        ]
        shares = np.concatenate(rows) * np.asarray(STD) + np.asarray(MEAN)
        pictures = np.round(np.clip(shares, 0, 1) * 255).astype(np.uint8)
        yield _picture(
            name, pictures, "each row a batch of 8, both photographs in turn"
        )


def _draws(policy: str, choose: Callable[[int], int]) -> np.ndarray:
    transform, sources = data.train_transform(policy, SIDE), photographs()
    return np.stack(
        [
            np.asarray(transform(sources[choose(n)], np.random.default_rng(n)))
            for n in range(64)
        ]
    )


def _picture(
    title: str, pictures: Sequence[np.ndarray] | np.ndarray, caption: str
) -> html.Picture:
    sheet = images.contact_sheet(pictures, columns=8)
    return html.Picture(images.data_uri(sheet, quality=75), title, caption)
