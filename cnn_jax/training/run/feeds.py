"""How training and evaluation batches reach the compiled step: two ways, one interface.

A feed is asked for the *inputs* of a step by the step's number, and says how the step
turns them into a batch. Small sets live on the device as bytes: the inputs are the
whole set and the epoch's order, and the batch is cut out of them inside the step. Other
sets are streamed: the inputs are the batch.

The position in the data is the step's number in both, so that a run continues at the
exact example from nothing but the step that its checkpoint was saved at.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from cnn_jax import data, sharding
from cnn_jax.models.registry import IMAGENET_MEAN, IMAGENET_STD
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.run.keys import make_keys, place_keys

WORTH_WORKERS = 5000
"""The size of a split from which on evaluating it is left to worker processes."""

Specification = dict[str, jax.ShapeDtypeStruct]
"""What a batch looks like, and where it lies."""


class Feed(Protocol):
    """Training batches by the number of the step."""

    @property
    def steps_per_epoch(self) -> int:
        """How many batches an epoch has."""

    @property
    def specification(self) -> Any:
        """Shapes, dtypes and shardings of what `inputs` returns."""

    @property
    def waited_seconds(self) -> float:
        """How long `inputs` kept its caller waiting so far."""

    @property
    def bad_images(self) -> Sequence[data.BadImage]:
        """Those that were skipped so far."""

    def inputs(self, step: int) -> Any:
        """Returns what the step after `step` finished ones takes, on the devices."""

    def batch(self, inputs: Any, step: jax.Array) -> data.Arrays:
        """Turns the inputs into a batch; traced inside the step."""

    def reseeded(self, seed: int) -> Feed:
        """Returns the same feed in the order of another seed."""

    def close(self) -> None:
        """Ends threads and processes, if there are any."""


class EvaluationFeed(Protocol):
    """A split's batches, in order, the last one padded and masked."""

    @property
    def specification(self) -> Any:
        """Shapes, dtypes and shardings of a batch."""

    @property
    def bad_images(self) -> Sequence[data.BadImage]:
        """Those that were left out."""

    def batches(self) -> Iterator[data.Arrays]:
        """Returns the batches of one pass, on the devices."""


class ResidentFeed:
    """Batches cut inside the step out of a dataset that lives on every device."""

    def __init__(self, dataset: data.Dataset, batch_size: int, seed: int, mesh: Mesh):
        self.steps_per_epoch: int = data.num_batches(len(dataset), batch_size)
        self.waited_seconds: float = 0.0
        self.bad_images: tuple[data.BadImage, ...] = ()
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
        self.specification: Any = jax.tree.map(_specification, self.inputs(0))

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

    def holding(self, dataset: data.Dataset) -> ResidentFeed:
        """Returns a feed over other examples, as many and of the same shape."""
        feed = object.__new__(ResidentFeed)
        arrays = {"image": dataset.images, "label": dataset.labels}
        feed.__dict__.update(
            self.__dict__, _arrays=jax.device_put(arrays, self._everywhere)
        )
        return feed

    def close(self) -> None:
        """Does nothing: there is no thread or process to end."""

    def _order_key(self, seed: int) -> jax.Array:
        return place_keys(make_keys(seed).order, self._everywhere)

    def _integer(self, value: int) -> jax.Array:
        return jax.device_put(np.int32(value), self._everywhere)


class ResidentEvaluation:
    """A whole split on every device, of which batches are cut in order."""

    bad_images: tuple[data.BadImage, ...] = ()

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
                out_shardings=sharding.batch_shardings(mesh, padded),
            )
            .lower(self._arrays, self._indices[0])
            .compile()
        )
        self.specification: Any = jax.tree.map(
            _specification, self._cut(self._arrays, self._indices[0])
        )

    def batches(self) -> Iterator[data.Arrays]:
        """Returns the batches of one pass."""
        return (self._cut(self._arrays, index) for index in self._indices)


class StreamFeed:
    """Batches read, decoded and transformed on the host while the devices train.

    Each process reads its own block of every batch.
    """

    def __init__(self, source: data.Source, config: TrainConfig, mesh: Mesh):
        self._source, self._config, self._mesh = source, config, mesh
        self._stream = data.TrainStream(
            source,
            batch_size=config.batch_size,
            transform=data.train_transform(
                config.augmentation, image_shape(config, source)[0]
            ),
            seed=config.seed,
            num_workers=config.num_workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            max_bad_images=config.max_bad_images,
        )
        self.steps_per_epoch: int = self._stream.steps_per_epoch
        self.specification: Specification = _batch_specification(source, config, mesh)
        self.waited_seconds: float = 0.0
        self._batches: Generator[data.Arrays] | None = None
        self._next_step = -1

    @property
    def bad_images(self) -> Sequence[data.BadImage]:
        """Those that were skipped so far."""
        return self._stream.bad_images

    def inputs(self, step: int) -> Any:
        """Returns the batch itself, which was read ahead if steps follow each other."""
        if step != self._next_step:
            self.close()
            self._batches = data.device_prefetch(
                _without_index(self._stream.batches(step)),
                sharding.batch_shardings(self._mesh, self.specification),
            )
        started = time.perf_counter()
        assert self._batches is not None  # set above, now or before
        batch = next(self._batches)
        self.waited_seconds += time.perf_counter() - started
        self._next_step = step + 1
        return batch

    def batch(self, inputs: Any, step: jax.Array) -> data.Arrays:
        """Returns the inputs, which are the batch."""
        return inputs

    def reseeded(self, seed: int) -> StreamFeed:
        """Returns a feed over the same source in another order."""
        config = dataclasses.replace(self._config, seed=seed)
        return StreamFeed(self._source, config, self._mesh)

    def close(self) -> None:
        """Ends the threads and processes that read ahead."""
        if self._batches is not None:
            self._batches.close()
        self._batches, self._next_step = None, -1


class StreamEvaluation:
    """A source's examples in order, the last batch padded and masked."""

    def __init__(self, source: data.Source, config: TrainConfig, mesh: Mesh):
        self._mesh = mesh
        self._stream = data.EvalStream(
            source,
            batch_size=config.batch_size,
            transform=data.eval_transform(image_shape(config, source)[0]),
            # Each pass starts its workers anew, which takes seconds.
            num_workers=config.num_workers if len(source) > WORTH_WORKERS else 0,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            max_bad_images=config.max_bad_images,
        )
        self.specification: Specification = _batch_specification(
            source, config, mesh, mask=True
        )

    @property
    def bad_images(self) -> Sequence[data.BadImage]:
        """Those that were left out."""
        return self._stream.bad_images

    def batches(self) -> Iterator[data.Arrays]:
        """Returns the batches of one pass."""
        return data.device_prefetch(
            _without_index(self._stream.batches()),
            sharding.batch_shardings(self._mesh, self.specification),
        )


def make_feed(source: data.Source, config: TrainConfig, mesh: Mesh) -> Feed:
    """Returns the feed that fits a training split.

    Raises:
      ValueError: If the configuration asks for what the feed cannot do.
    """
    if isinstance(source, data.Dataset):
        if config.augmentation != "none":
            raise ValueError(
                f"augmentation: got {config.augmentation!r} for {source.name!r}, which "
                "lives on the devices; expected 'none' with crop_padding, flip and "
                "erasing_probability, or data_path 'stream'."
            )
        return ResidentFeed(source, config.batch_size, config.seed, mesh)
    return StreamFeed(source, config, mesh)


def make_evaluation(
    source: data.Source, config: TrainConfig, mesh: Mesh
) -> EvaluationFeed:
    """Returns the feed that fits a split to evaluate on."""
    if isinstance(source, data.Dataset):
        return ResidentEvaluation(source, config.batch_size, mesh)
    return StreamEvaluation(source, config, mesh)


def image_shape(config: TrainConfig, source: data.Source) -> tuple[int, int, int]:
    """Returns `(height, width, channels)` of the images that the model gets.

    Raises:
      ValueError: If the images of a stream differ in size and the configuration does
        not say what to bring them to.
    """
    if isinstance(source, data.Dataset):
        return source.image_shape
    if config.image_size is not None:
        channels = source.features.image_shape[2]
        return (config.image_size, config.image_size, channels)
    raise ValueError(
        f"image_size: got None for {source.name!r}, which is streamed; expected the "
        "height and width to cut its images to."
    )


def channel_statistics(
    config: TrainConfig, train: data.Source
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the mean and deviation per channel that images are normalised with."""
    if config.mean is not None and config.std is not None:
        return config.mean, config.std
    if isinstance(train, data.Dataset):
        mean, std = train.channel_statistics
        # A constant channel has no deviation to divide by; it becomes zero.
        return mean, tuple(deviation or 1.0 for deviation in std)
    # A stream's own would take a pass over it.
    channels = train.features.image_shape[2]
    return IMAGENET_MEAN[:channels], IMAGENET_STD[:channels]


def _batch_specification(
    source: data.Source, config: TrainConfig, mesh: Mesh, *, mask: bool = False
) -> Specification:
    rows = {
        "image": (image_shape(config, source), np.uint8),
        "label": ((), np.int32),
        **({"mask": ((), np.float32)} if mask else {}),
    }
    lies = sharding.batch_shardings(mesh, rows)
    return {
        name: jax.ShapeDtypeStruct(
            (config.batch_size, *shape), dtype, sharding=lies[name]
        )
        for name, (shape, dtype) in rows.items()
    }


def _without_index(batches: Iterator[data.Arrays]) -> Generator[data.Arrays]:
    """Drops the examples' numbers, which are for the host alone."""
    for batch in batches:
        yield {name: array for name, array in batch.items() if name != "index"}


def _specification(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
