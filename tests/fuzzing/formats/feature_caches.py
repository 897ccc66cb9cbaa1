"""Cached features: a damaged file is made again."""

from __future__ import annotations

import pathlib

import numpy as np

from fuzzing.formats import Format
from fuzzing.mutations import of_bytes, of_zip


def _make(directory: pathlib.Path) -> None:
    from cnn_jax.transfer import feature_cache

    features = np.arange(60, dtype=np.float32).reshape(12, 5)
    labels = np.arange(12, dtype=np.int32)
    feature_cache._write(directory / "features.npz", features, labels, "about")


def _read(directory: pathlib.Path) -> None:
    from cnn_jax.transfer import feature_cache

    path = directory / "features.npz"
    if feature_cache._read(path) is None:
        raise ValueError(f"{path}: is made again")


FORMATS = (Format("feature-cache", _make, _read, {"*": (of_zip(of_bytes),)}),)
