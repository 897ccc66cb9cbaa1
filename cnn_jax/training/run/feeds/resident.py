"""Batches of a dataset that is in the memory of every device."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from cnn_jax import data, sharding
from cnn_jax.training.run.keys import make_keys, place_keys


class ResidentFeed:
    """Batches cut inside the step out of a dataset that is on every device.

    Args:
      dataset: The training split.
      batch_size: Examples per step.
      seed: Decides each epoch's order.
      mesh: The devices.
    """

    bad_images: tuple[data.BadImage, ...] = ()

    def __init__(self, dataset: data.Dataset, batch_size: int, seed: int, mesh: Mesh):
        self.steps_per_epoch: int = data.num_batches(len(dataset), batch_size)
        self.waited_seconds: float = 0.0
        self._batch_size = batch_size
        self._everywhere = sharding.replicated(mesh)
        self._arrays = jax.device_put(
            {"image": dataset.images, "label": dataset.labels}, self._everywhere
        )
        self._key = place_keys(make_keys(seed).order, self._everywhere)
        self._order = _order_function(len(dataset), self._everywhere)
        self._current: tuple[int, jax.Array] | None = None
        self.specification: Any = jax.tree.map(_specification, self.inputs(0))

    def inputs(self, step: int) -> Any:
        """Returns the arrays and the order of the epoch that `step` is in."""
        epoch, _ = data.locate(step, self.steps_per_epoch)
        if self._current is None or self._current[0] != epoch:
            number = jax.device_put(np.int32(epoch), self._everywhere)
            self._current = (epoch, self._order(self._key, number))
        return {"arrays": self._arrays, "order": self._current[1]}

    def batch(self, inputs: Any, step: jax.Array) -> data.Arrays:
        """Gathers the batch's examples."""
        index = step % self.steps_per_epoch
        return data.training_batch(
            inputs["arrays"], inputs["order"], index, self._batch_size
        )

    def close(self) -> None:
        """Does nothing: there is no thread or process to end."""


class ResidentEvaluation:
    """A whole split on every device, of which batches are cut in order.

    Args:
      dataset: The split.
      batch_size: Examples of a batch.
      mesh: The devices.
    """

    bad_images: tuple[data.BadImage, ...] = ()

    def __init__(self, dataset: data.Dataset, batch_size: int, mesh: Mesh):
        everywhere = sharding.replicated(mesh)
        padded = data.pad_to_batches(dataset, batch_size)
        self._arrays = jax.device_put(padded, everywhere)
        self._indices = [
            jax.device_put(np.int32(index), everywhere)
            for index in range(len(padded["label"]) // batch_size)
        ]
        self._cut = _cut_function(tuple(padded), batch_size, mesh)
        self.specification: Any = jax.tree.map(
            _specification, self._cut(self._arrays, self._indices[0])
        )

    def batches(self) -> Iterator[data.Arrays]:
        """Returns the batches of one pass."""
        return (self._cut(self._arrays, index) for index in self._indices)


# Functions that runs over the same devices share, so that the second run of a study
# compiles nothing.
@functools.lru_cache(maxsize=8)
def _order_function(num_examples: int, everywhere: NamedSharding) -> Any:
    """Returns the jitted `(key, epoch) -> order`."""
    order = functools.partial(data.epoch_order, num_examples=num_examples)
    return jax.jit(order, out_shardings=everywhere)


@functools.lru_cache(maxsize=8)
def _cut_function(names: tuple[str, ...], batch_size: int, mesh: Mesh) -> Any:
    """Returns the jitted `(arrays, index) -> batch`."""
    cut = functools.partial(data.evaluation_batch, batch_size=batch_size)
    return jax.jit(
        cut, out_shardings=sharding.batch_shardings(mesh, dict.fromkeys(names))
    )


def _specification(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
