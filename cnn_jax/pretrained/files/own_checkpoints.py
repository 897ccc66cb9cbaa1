"""Directories that `cnn-jax convert` wrote."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from cnn_jax import trees
from cnn_jax.pretrained.files.stored import (
    DamagedFileError,
    Provenance,
    StoredArray,
    Weights,
)

KIND = "cnn_jax.pretrained"
"""What marks the metadata of these checkpoints."""


@contextlib.contextmanager
def open_own(path: pathlib.Path) -> Iterator[Weights]:
    """Opens a directory and describes its arrays.

    Reading one restores and verifies all.

    Raises:
      FileNotFoundError: If no checkpoint is in it.
      ValueError: If it is another checkpoint, or is damaged.
    """
    from cnn_jax.checkpoint import Checkpointer, CheckpointError

    if not any(path.iterdir()):
        raise FileNotFoundError(f"{path}: got an empty directory.")
    with Checkpointer(path) as checkpointer:
        try:
            metadata = checkpointer.metadata()
        except CheckpointError as error:
            raise DamagedFileError(str(error)) from error
        if metadata.get("kind") != KIND:
            raise ValueError(
                f"{path}: got a checkpoint of something else, a training run's "
                "perhaps; expected one that cnn-jax convert wrote."
            )
        template = {name: _abstract(spec) for name, spec in metadata["arrays"].items()}

        @functools.cache
        def restore() -> dict[str, jax.Array]:
            try:
                tree = checkpointer.restore(nested(template)).tree
            except CheckpointError as error:
                raise DamagedFileError(str(error)) from error
            return trees.named_leaves(tree)

        def describe(name: str) -> StoredArray:
            leaf = template[name]
            return StoredArray(
                leaf.shape, str(leaf.dtype), lambda: np.asarray(restore()[name])
            )

        yield Weights(
            {name: describe(name) for name in template},
            Provenance(str(path), path, preprocessing=metadata["preprocessing"]),
        )


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tree whose leaves have these '/'-joined paths."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[name] = leaf
    return tree


def _abstract(spec: str) -> jax.ShapeDtypeStruct:
    """Parses `"float32[3,3,16,16]"`."""
    dtype, sizes = re.fullmatch(r"(\w+)\[([\d,]*)\]", spec).groups()
    return jax.ShapeDtypeStruct(
        tuple(map(int, filter(None, sizes.split(",")))),
        dtype,
        # Weights from anywhere: the devices they were saved on are not here.
        sharding=jax.sharding.SingleDeviceSharding(jax.local_devices()[0]),
    )
