"""Batches that are read, decoded and transformed on the host while the devices train.

Each process reads its own block of every batch.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cnn_jax import data, sharding
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.run.images import ImageFormat

WORTH_WORKERS = 5000
"""The size of a split from which on evaluating it is left to worker processes."""

Specification = dict[str, jax.ShapeDtypeStruct]
"""Shapes, dtypes and shardings of a batch."""


class StreamFeed:
    """Training batches of a source or an iterable.

    Args:
      source: The examples, or batches of them in an order of their own.
      config: What says how they are read.
      mesh: The devices.
      images: The images that the model gets.
    """

    def __init__(
        self,
        source: data.Source | data.Batches,
        config: TrainConfig,
        mesh: Mesh,
        images: ImageFormat,
    ):
        self._mesh = mesh
        self._stream = (
            source.training(jax.process_index(), jax.process_count())
            if isinstance(source, data.Batches)
            else data.TrainStream(
                source,
                batch_size=config.batch_size,
                transform=data.train_transform(
                    config.augmentation, images.preprocessing
                ),
                seed=config.seed,
                num_workers=config.num_workers,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
                max_bad_images=config.max_bad_images,
            )
        )
        self.steps_per_epoch: int = self._stream.steps_per_epoch
        self.specification: Specification = _batch_specification(
            source, config, mesh, images.shape
        )
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

    def close(self) -> None:
        """Ends the threads and processes that read ahead."""
        if self._batches is not None:
            self._batches.close()
        self._batches, self._next_step = None, -1


class StreamEvaluation:
    """A split's examples in order, the last batch padded and masked.

    Args:
      source: The examples, or batches of them.
      config: What says how they are read.
      mesh: The devices.
      images: The images that the model gets.
    """

    def __init__(
        self,
        source: data.Source | data.Batches,
        config: TrainConfig,
        mesh: Mesh,
        images: ImageFormat,
    ):
        self._mesh = mesh
        self._stream = (
            source.evaluation(
                config.batch_size, jax.process_index(), jax.process_count()
            )
            if isinstance(source, data.Batches)
            else data.EvalStream(
                source,
                batch_size=config.batch_size,
                transform=data.eval_transform(images.preprocessing),
                # Each pass starts its workers anew, which takes seconds.
                num_workers=config.num_workers if len(source) > WORTH_WORKERS else 0,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
                max_bad_images=config.max_bad_images,
            )
        )
        self.specification: Specification = _batch_specification(
            source, config, mesh, images.shape, mask=True
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


def _batch_specification(
    source: data.Source | data.Batches,
    config: TrainConfig,
    mesh: Mesh,
    image_shape: tuple[int, int, int],
    *,
    mask: bool = False,
) -> Specification:
    dtype = source.dtype if isinstance(source, data.Batches) else np.dtype(np.uint8)
    rows = {
        "image": (image_shape, dtype),
        "label": ((), np.int32),
        **({"mask": ((), np.float32)} if mask else {}),
    }
    shardings = sharding.batch_shardings(mesh, rows)
    return {
        name: jax.ShapeDtypeStruct(
            (config.batch_size, *shape), dtype, sharding=shardings[name]
        )
        for name, (shape, dtype) in rows.items()
    }


def _without_index(batches: Iterator[data.Arrays]) -> Generator[data.Arrays]:
    """Drops the examples' numbers, which are for the host alone."""
    for batch in batches:
        yield {name: array for name, array in batch.items() if name != "index"}
