"""A pass over a split: its batches as training evaluates them, and their scores."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from cnn_jax import data, sharding
from cnn_jax.evaluation.classes import ClassMap
from cnn_jax.evaluation.scores import Guesses, Mistake, Scores, score_batch, scores_of
from cnn_jax.report.images import data_uri
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.run.compiled import BATCHES_PER_SUM
from cnn_jax.training.run.feeds import make_evaluation
from cnn_jax.training.run.images import ImageFormat

PICTURE_SIDE = 160
"""About how high and wide the picture of a mistake is, in pixels."""

Advance = Callable[[int, str], None]
"""Takes the number of batches that are done, and what is being done."""


def score_split(
    model: Any,
    variables: Mapping[str, Any],
    source: data.Source | data.Batches,
    images: ImageFormat,
    config: TrainConfig,
    classes: ClassMap,
    *,
    mesh: Mesh | None = None,
    num_mistakes: int = 12,
    advance: Advance = lambda done, text: None,
) -> tuple[Scores, list[data.BadImage]]:
    """Returns the scores of a network on a split, and the images left out of it.

    Beside one batch, 24 bytes an example are kept.

    Args:
      model: The network, anything with linen's `apply`.
      variables: Its variables.
      source: The split.
      images: The images that the network gets, and how they are prepared.
      config: Read are `batch_size`, `num_workers` and `max_bad_images`.
      classes: The logit of each of the split's classes.
      mesh: The devices; all of them when None.
      num_mistakes: How many of the surest mistakes to keep, with their pictures.
      advance: Is told of the progress.

    Raises:
      ValueError: If more images are unreadable than allowed (`TooManyBadImagesError`
        names them), or none can be read.
      OSError: If the split cannot be read.
    """
    source = data.with_channels(source, images.shape[2])
    mesh = sharding.make_mesh() if mesh is None else mesh
    sharding.check_batch_size(config.batch_size, mesh)
    everywhere = sharding.replicated(mesh)
    feed = make_evaluation(source, config, mesh, images)
    size = _batch_size(source, config)
    placed, logits_of = jax.device_put((dict(variables), classes.logits), everywhere)

    @functools.partial(jax.jit, out_shardings=everywhere)
    def score(variables, logits_of, batch):
        x = images.prepare(batch["image"])
        logits = model.apply(variables, x, train=False)
        return score_batch(logits, logits_of[batch["label"]], batch["mask"])

    advance(0, "compiling")
    totals: list[Mapping[str, Any]] = []
    kept: list[dict[str, np.ndarray]] = []
    for number, batch in enumerate(feed.batches()):
        sums, guesses = jax.device_get(score(placed, logits_of, batch))
        totals.append(sums)
        counts = np.flatnonzero(np.asarray(batch["mask"]) > 0)
        index = number * size + counts
        kept.append(
            {"index": index} | {key: array[counts] for key, array in guesses.items()}
        )
        if len(totals) == BATCHES_PER_SUM:
            totals = [_added(totals)]
        advance(number + 1, "evaluating")
    columns = (
        np.concatenate([each[name] for each in kept]) for name in Guesses._fields
    )
    scores = scores_of(
        _added(totals), Guesses(*columns), classes.names, num_mistakes=num_mistakes
    )
    mistakes = tuple(_with_picture(each, source, images) for each in scores.mistakes)
    return dataclasses.replace(scores, mistakes=mistakes), list(feed.bad_images)


def num_batches(source: data.Source | data.Batches, config: TrainConfig) -> int:
    """Returns how many batches a pass over a split has."""
    return -(-len(source) // _batch_size(source, config))


def _batch_size(source: data.Source | data.Batches, config: TrainConfig) -> int:
    return source.batch_size if isinstance(source, data.Batches) else config.batch_size


def _added(totals: list[Mapping[str, Any]]) -> dict[str, Any]:
    # A float64, or a Python integer's worth of one, as `CompiledRun.evaluate` adds.
    return {
        key: np.sum([total[key] for total in totals], axis=0, dtype=np.float64)
        for key in totals[0]
    }


def _with_picture(
    mistake: Mistake, source: data.Source | data.Batches, images: ImageFormat
) -> Mistake:
    """Adds what the network saw, where the split has its examples by number."""
    if (
        isinstance(source, data.Batches)  # they come once
        or images.mean is None  # numbers that are no pixels
        or images.shape[2] not in (1, 3)
    ):
        return mistake
    if isinstance(source, data.Dataset):
        pixels = images.evaluated(source.take([mistake.index])).images[0]
    else:
        found = data.pixels_of(source[mistake.index], images.shape[2])
        pixels = data.prepare_pixels(found, images.preprocessing)
    return dataclasses.replace(mistake, picture=data_uri(_small(pixels)))


def _small(pixels: np.ndarray) -> np.ndarray:
    """Returns a picture of about `PICTURE_SIDE`, uint8 `(height, width, 3)`."""
    scale = max(1, PICTURE_SIDE // max(pixels.shape[:2]))
    large = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    picture = Image.fromarray(np.broadcast_to(large, (*large.shape[:2], 3)))
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(picture)
