"""The handwritten digits that scikit-learn includes."""

from __future__ import annotations

import numpy as np

from cnn_jax.data.dataset import Dataset
from cnn_jax.data.sources.resident_size import check_memory


def load_digits(split: str, image_size: int) -> Dataset:
    """Returns a split of the 1,797 digits as `(n, image_size, image_size, 1)`.

    Raises:
      ValueError: If `split` is neither `"train"` nor `"test"`, or there is no memory
        for images of that size.
    """
    import sklearn.datasets
    from PIL import Image

    if split not in ("train", "test"):
        raise ValueError(f"split: got {split!r}, expected 'train' or 'test'.")
    scans = sklearn.datasets.load_digits()
    pixels = np.round(scans.images * (255 / 16)).astype(np.uint8)
    # The scans are ordered by writer, so every fifth example of each class gives a
    # test split with every writer in it, and no random number decides it.
    is_test = np.zeros(len(pixels), dtype=bool)
    for label in range(10):
        is_test[np.flatnonzero(scans.target == label)[4::5]] = True
    chosen = is_test if split == "test" else ~is_test
    check_memory("digits", split, int(chosen.sum()), (image_size, image_size, 1))
    images = np.stack(
        [
            np.asarray(
                Image.fromarray(scan).resize(
                    (image_size,) * 2, Image.Resampling.BICUBIC
                )
            )
            for scan in pixels[chosen]
        ]
    )
    return Dataset(
        name="digits",
        split=split,
        images=images[..., np.newaxis],
        labels=scans.target[chosen],
        class_names=tuple(map(str, range(10))),
    )
