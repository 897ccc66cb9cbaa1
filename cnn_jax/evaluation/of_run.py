"""The scores of a training run's test split, which its page shows."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np

from cnn_jax import data, sharding
from cnn_jax.checkpoint.lock import DirectoryLock
from cnn_jax.evaluation.classes import ClassMap
from cnn_jax.evaluation.scores import Scores
from cnn_jax.evaluation.split import score_split
from cnn_jax.files import FileError, json_value, read_json, reading, write_text
from cnn_jax.preprocessing import Preprocessing
from cnn_jax.report.finished_run import SCORES
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.run.images import ImageFormat
from cnn_jax.training.run.result import FitResult

_MOST_EXAMPLES = 200_000
"""The largest test split that is gone through once more."""


def write_test_scores(
    model: Any, result: FitResult, test: data.Source, config: TrainConfig
) -> None:
    """Writes `scores.json` into a run's directory, if it has one: `Scores` as JSON.

    It takes one more pass over the test split, by the variables that the result is of.
    Runs over several processes, and those that were resumed after their end, whose file
    is there already and whole, do without.

    Args:
      model: The network.
      result: The result of the run.
      test: Its test split.
      config: Its configuration.

    Raises:
      OSError: If the file cannot be written.
      DirectoryInUseError: If another process continues the run.
    """
    if result.run_dir is None or result.test is None or jax.process_count() > 1:
        return
    directory = pathlib.Path(result.run_dir).expanduser()
    if len(test) > _MOST_EXAMPLES or _is_there(directory, result):
        return
    images = _recorded(directory, config.dtype)
    scores = score_test(model, result.best_variables, test, images, config)
    record = {"state_digest": result.state_digest, **json_value(scores)}
    text = json.dumps(record, indent=1, allow_nan=False)
    with DirectoryLock(directory):
        write_text(directory / SCORES, text + "\n")


def score_test(
    model: Any,
    variables: Any,
    test: data.Source,
    images: ImageFormat,
    config: TrainConfig,
) -> Scores:
    """Returns the scores of a network with one logit for each class, in their order.

    Args:
      model: The network.
      variables: Its variables.
      test: The data.
      images: How images are prepared.
      config: That of its run.
    """
    names = tuple(test.class_names)
    scores, _ = score_split(
        model,
        variables,
        test,
        images,
        config,
        ClassMap(names, np.arange(len(names), dtype=np.int32)),
        mesh=sharding.make_mesh(specification=config.mesh),
    )
    return scores


def _is_there(directory: pathlib.Path, result: FitResult) -> bool:
    """Returns whether the file is there, whole, and of the result's variables."""
    path = directory / SCORES
    if not path.is_file():
        return False
    try:
        found = read_json(path)
    except FileError:  # damaged: it is written again
        return False
    names = {field.name for field in dataclasses.fields(Scores)}
    return names <= found.keys() and found.get("state_digest") == result.state_digest


def _recorded(directory: pathlib.Path, dtype: str) -> ImageFormat:
    """Returns the images that the network got, as the run recorded them."""
    path = directory / "config.json"
    with reading(path, "what a training run writes"):
        found = read_json(path)["images"]
        names = [field.name for field in dataclasses.fields(Preprocessing)]
        preprocessing = Preprocessing.from_dict({name: found[name] for name in names})
        return ImageFormat(tuple(found["input_shape"]), dtype, preprocessing)
