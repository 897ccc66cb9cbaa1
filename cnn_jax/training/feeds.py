"""How training and evaluation batches reach the compiled step: two ways, one interface.

A feed is asked for the *inputs* of a step by the step's number, and says how the step
turns them into a batch. Small sets live on the device as bytes: the inputs are the
whole set and the epoch's order, and the batch is cut out of them inside the step. Other
sets are streamed: the inputs are the batch.

The position in the data is the step's number in both, so that a run continues at the
exact example from nothing but the step that its checkpoint was saved at.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from cnn_jax import data, sharding
from cnn_jax.training.keys import make_keys


class Feed(Protocol):
    """Training batches by the number of the step.

    Attributes:
      steps_per_epoch: How many batches an epoch has.
      specification: Shapes, dtypes and shardings of what `inputs` returns.
      waited_seconds: How long `inputs` kept its caller waiting so far.
    """

    steps_per_epoch: int
    specification: Any
    waited_seconds: float

    def inputs(self, step: int) -> Any:
        """Returns what the step after `step` finished ones takes, on the devices."""

    def batch(self, inputs: Any, step: jax.Array) -> data.Arrays:
        """Turns the inputs into a batch; traced inside the step."""

    def reseeded(self, seed: int) -> Feed:
        """Returns the same feed in the order of another seed."""

    def close(self) -> None:
        """Ends threads and processes, if there are any."""


class EvaluationFeed(Protocol):
    """A split's batches, in order, the last one padded and masked.

    Attributes:
      specification: Shapes, dtypes and shardings of a batch.
    """

    specification: Any

    def batches(self) -> Iterator[data.Arrays]:
        """Returns the batches of one pass, on the devices."""


class ResidentFeed:
    """Batches cut inside the step out of a dataset that lives on every device."""

    def __init__(self, dataset: data.Dataset, batch_size: int, seed: int, mesh: Mesh):
        self.steps_per_epoch = data.num_batches(len(dataset), batch_size)
        self.waited_seconds = 0.0
        self._batch_size = batch_size
        self._everywhere = sharding.replicated(mesh)
        self._arrays = jax.device_put(
            {"image": dataset.images, "label": dataset.labels}, self._everywhere
        )
        self._key = self._order_key(seed)
        self._order = (
            jax.jit(
                functools.partial(data.epoch_order, num_examples=len(dataset)),
                out_shardings=self._everywhere,
            )
            .lower(self._key, self._integer(0))
            .compile()
        )
        self._current: tuple[int, jax.Array] | None = None
        self.specification = jax.tree.map(_specification, self.inputs(0))

    def inputs(self, step: int) -> Any:
        """Returns the arrays and the order of the epoch that `step` is in."""
        epoch, _ = data.locate(step, self.steps_per_epoch)
        if self._current is None or self._current[0] != epoch:
            self._current = (epoch, self._order(self._key, self._integer(epoch)))
        return {"arrays": self._arrays, "order": self._current[1]}

    def batch(self, inputs: Any, step: jax.Array) -> data.Arrays:
        """Gathers the batch's examples."""
        index = step % self.steps_per_epoch
        return data.training_batch(
            inputs["arrays"], inputs["order"], index, self._batch_size
        )

    def reseeded(self, seed: int) -> ResidentFeed:
        """Returns a feed over the same arrays in another order."""
        feed = object.__new__(ResidentFeed)
        feed.__dict__.update(self.__dict__, _key=self._order_key(seed), _current=None)
        return feed

    def close(self) -> None:
        """Does nothing: there is no thread or process to end."""

    def _order_key(self, seed: int) -> jax.Array:
        return jax.device_put(make_keys(seed).order, self._everywhere)

    def _integer(self, value: int) -> jax.Array:
        return jax.device_put(np.int32(value), self._everywhere)


class ResidentEvaluation:
    """A whole split on every device, of which batches are cut in order."""

    def __init__(self, dataset: data.Dataset, batch_size: int, mesh: Mesh):
        everywhere = sharding.replicated(mesh)
        padded = data.pad_to_batches(dataset, batch_size)
        self._arrays = jax.device_put(padded, everywhere)
        self._indices = [
            jax.device_put(np.int32(index), everywhere)
            for index in range(len(padded["label"]) // batch_size)
        ]
        self._cut = (
            jax.jit(
                functools.partial(data.evaluation_batch, batch_size=batch_size),
                out_shardings=sharding.batch_sharded(mesh),
            )
            .lower(self._arrays, self._indices[0])
            .compile()
        )
        self.specification = jax.tree.map(
            _specification, self._cut(self._arrays, self._indices[0])
        )

    def batches(self) -> Iterator[data.Arrays]:
        """Returns the batches of one pass."""
        return (self._cut(self._arrays, index) for index in self._indices)


def _specification(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
