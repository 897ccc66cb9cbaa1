"""Batches cut on the device out of a dataset in its memory.

A small dataset belongs in device memory as uint8: an epoch is then a permutation of
its indices, a batch is a gather, and nothing is transferred while training. The order
of epoch `e` depends on the root key and `e` alone, so a position in the data is the
pair (epoch, batch), and continuing from one is exact by construction.
"""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.data.dataset import Dataset

Arrays = dict[str, Any]
"""`{"image": (n, h, w, c), "label": (n,)}`, and `"mask": (n,)` if some are padding."""


def num_batches(num_examples: int, batch_size: int) -> int:
    """Returns how many full batches an epoch has; the rest is left to other epochs.

    Raises:
      ValueError: If there is not even one.
    """
    if not 0 < batch_size <= num_examples:
        raise ValueError(
            f"batch_size: got {batch_size}, expected 1 to {num_examples}, the number "
            "of training examples."
        )
    return num_examples // batch_size


def locate(step: int, batches_per_epoch: int) -> tuple[int, int]:
    """Returns the (epoch, batch) at which training stands after `step` steps."""
    return divmod(step, batches_per_epoch)


def epoch_order(key: jax.Array, epoch: jax.Array | int, num_examples: int) -> jax.Array:
    """Returns the order in which an epoch visits the examples.

    Args:
      key: The root key of the data order.
      epoch: The epoch's number.
      num_examples: How many examples there are; static under jit.

    Returns:
      A permutation, int32 of shape `(num_examples,)`.
    """
    num_examples = operator.index(num_examples)
    return jax.random.permutation(jax.random.fold_in(key, epoch), num_examples)


def training_batch(
    data: Arrays, order: jax.Array, index: jax.Array | int, batch_size: int
) -> Arrays:
    """Gathers the `index`-th batch of an epoch.

    Args:
      data: The dataset's arrays on the device.
      order: The epoch's order, from `epoch_order`.
      index: Which batch, below `num_batches`.
      batch_size: Static under jit.

    Returns:
      `{"image", "label"}` with a leading dimension of `batch_size`.
    """
    start = _first_example(index, batch_size)
    chosen = jax.lax.dynamic_slice_in_dim(order, start, batch_size).astype(jnp.int32)
    return {name: jnp.take(array, chosen, axis=0) for name, array in data.items()}


def pad_to_batches(dataset: Dataset, batch_size: int) -> Arrays:
    """Returns a dataset's arrays with zeros behind, up to whole batches.

    Args:
      dataset: `n` examples.
      batch_size: The size of the batches to fill.

    Returns:
      NumPy arrays `{"image", "label", "mask"}`; `mask` is 1.0 for the `n` examples and
      0.0 for the padding.
    """
    missing = -len(dataset) % operator.index(batch_size)

    def pad(array: np.ndarray) -> np.ndarray:
        return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))

    mask = np.ones(len(dataset), np.float32)
    arrays = {"image": dataset.images, "label": dataset.labels, "mask": mask}
    return {name: pad(array) for name, array in arrays.items()}


def evaluation_batch(data: Arrays, index: jax.Array | int, batch_size: int) -> Arrays:
    """Cuts the `index`-th batch, in the dataset's own order, out of padded arrays."""
    start = _first_example(index, batch_size)
    return {
        name: jax.lax.dynamic_slice_in_dim(array, start, batch_size)
        for name, array in data.items()
    }


def _first_example(index: jax.Array | int, batch_size: int) -> jax.Array:
    """Returns a batch's first place, which a narrow `index` could not hold."""
    return jnp.asarray(index).astype(jnp.int32) * operator.index(batch_size)
