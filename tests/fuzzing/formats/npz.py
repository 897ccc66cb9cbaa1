"""`.npz` files of weights."""

from __future__ import annotations

import pathlib
import random

import numpy as np

from fuzzing.formats import Format
from fuzzing.mutations import of_bytes, of_zip


def _member(content: bytes, generator: random.Random) -> bytes:
    """Mutates an array: its header or all of it."""
    if generator.random() < 0.7:
        header = content[:128]
        return of_bytes(header, generator) + content[128:]
    return of_bytes(content, generator)


def _make(directory: pathlib.Path) -> None:
    np.savez(directory / "weights.npz", **lenet_arrays())


def _read(directory: pathlib.Path) -> None:
    import cnn_jax

    cnn_jax.load_pretrained("lenet5", directory / "weights.npz")


def lenet_arrays() -> dict[str, np.ndarray]:
    """Returns path -> array of a LeNet-5."""
    import cnn_jax
    from cnn_jax.layers import abstract_variables
    from cnn_jax.trees import named_leaves

    shapes = abstract_variables(
        cnn_jax.create_model("lenet5"), np.zeros((1, 32, 32, 1), np.float32)
    )
    generator = np.random.default_rng(0)
    return {
        path: generator.normal(size=leaf.shape).astype(np.float32)
        for path, leaf in named_leaves(shapes).items()
    }


FORMATS = (Format("npz", _make, _read, {"*.npz": (of_zip(_member),)}),)
