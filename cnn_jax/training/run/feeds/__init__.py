"""Feeds: training and evaluation batches for the compiled step.

A feed is asked for the *inputs* of a step by the step's number, and says how the step
turns them into a batch. Sets in memory are on the devices (`resident`): the inputs are
the whole set and the epoch's order, and the batch is cut out of them inside the step.
Others are read while the devices train (`streamed`): the inputs are the batch.

The position in the data is the step's number in both, so that a run continues at the
exact example from nothing but the step that its checkpoint was saved at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from cnn_jax import data
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.run.feeds.resident import ResidentEvaluation, ResidentFeed
from cnn_jax.training.run.feeds.streamed import StreamEvaluation, StreamFeed
from cnn_jax.training.run.images import ImageFormat

__all__ = ["EvaluationFeed", "Feed", "make_evaluation", "make_feed"]


class Feed(Protocol):
    """Training batches by the number of the step."""

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches of an epoch."""

    @property
    def specification(self) -> Any:
        """Shapes, dtypes and shardings of the arrays that `inputs` returns."""

    @property
    def waited_seconds(self) -> float:
        """The seconds that `inputs` kept its caller waiting so far."""

    @property
    def bad_images(self) -> Sequence[data.BadImage]:
        """Those that were skipped so far."""

    def inputs(self, step: int) -> Any:
        """Returns what the step after `step` finished ones takes, on the devices."""

    def batch(self, inputs: Any, step: jax.Array) -> data.Arrays:
        """Turns the inputs into a batch; traced inside the step."""

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


def make_feed(
    source: data.Source | data.Batches,
    config: TrainConfig,
    mesh: Mesh,
    images: ImageFormat,
) -> Feed:
    """Returns the feed that fits a training split.

    Args:
      source: The split.
      config: Read are `batch_size`, `seed`, `augmentation`, `num_workers` and
        `max_bad_images`.
      mesh: The devices.
      images: The images that the model gets.

    Raises:
      ValueError: If the configuration asks for what the feed cannot do.
    """
    source = data.with_channels(source, images.shape[2])
    if config.augmentation != "none" and isinstance(
        source, data.Dataset | data.Batches
    ):
        raise ValueError(
            f"augmentation: got {config.augmentation!r} for {source.name!r}, whose "
            "images are not decoded by the run; expected 'none' with crop_padding, "
            "flip and erasing_probability, or data_path 'stream'."
        )
    if isinstance(source, data.Dataset):
        examples = images.trained(source)
        return ResidentFeed(examples, config.batch_size, config.seed, mesh)
    return StreamFeed(source, config, mesh, images)


def make_evaluation(
    source: data.Source | data.Batches,
    config: TrainConfig,
    mesh: Mesh,
    images: ImageFormat,
) -> EvaluationFeed:
    """Returns the feed that fits a split to evaluate on.

    It is what evaluates during training; outside of it, too, a split is evaluated by
    what this returns, so that both see the same pixels.

    Args:
      source: The split, in memory or not.
      config: Read are `batch_size`, `num_workers` and `max_bad_images`.
      mesh: The devices.
      images: The images that the model gets, `ImageFormat.of(preprocessing)` say. The
        feed crops, resizes and repeats grey to three channels; `images.prepare`
        normalises, on the devices.

    Raises:
      ValueError: If images in memory cannot be prepared so.
    """
    source = data.with_channels(source, images.shape[2])
    if isinstance(source, data.Dataset):
        return ResidentEvaluation(images.evaluated(source), config.batch_size, mesh)
    return StreamEvaluation(source, config, mesh, images)
