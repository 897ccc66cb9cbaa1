"""Files of a finished training run, read from its directory.

Of `config.json`, `metrics.jsonl`, `result.json` and `scores.json` only that is read
which a finished run writes again when it is resumed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cnn_jax.files import json_value, read_bytes, read_json, reading

SCORES = "scores.json"
"""The file with the scores of the test split, see `cnn_jax.evaluation.of_run`."""

Entry = Mapping[str, Any]
"""A line of `metrics.jsonl`, or an epoch of the history; None where not finite."""

SPLITS = {"train": "Training", "validation": "Validation", "test": "Test"}
"""Prefixes of an epoch's metrics and their labels, in the order of their colours."""

_MOST_METRICS = 2**26
"""The longest `metrics.jsonl` that is read: a quarter of a million lines."""


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """The content of a finished run's files.

    Attributes:
      about: The content of `config.json`: configuration, versions, fingerprints.
      result: That of `result.json`.
      steps: The lines of `metrics.jsonl` that are about steps.
      scores: The content of `scores.json`; None where it is not there, or is of other
        weights than the result.
    """

    about: Mapping[str, Any]
    result: Mapping[str, Any]
    steps: Sequence[Entry]
    scores: Mapping[str, Any] | None = None

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration's fields."""
        return self.about["config"]

    @property
    def model(self) -> str:
        """The model's name, and what was changed in a registered one."""
        changed = self.about.get("model", {}).get("changed", {})
        fields = ", ".join(f"{name}={value}" for name, value in changed.items())
        return self.config["model"] + (f" ({fields})" if fields else "")

    @property
    def metrics(self) -> Sequence[str]:
        """The names of the user's own metrics."""
        return list(self.about.get("own_parts", {}).get("metrics", ()))

    @property
    def history(self) -> Sequence[Entry]:
        """The epochs."""
        return self.result["history"]

    @property
    def best(self) -> Entry:
        """The epoch that the result is of."""
        epochs = (each for each in self.history if each.get("epoch") == self.best_epoch)
        return next(epochs, {})

    @property
    def best_epoch(self) -> int:
        """Its number, from 1."""
        return self.result["best_epoch"]

    @property
    def validates(self) -> bool:
        """Returns whether a validation split chose the best epoch."""
        return any("validation_accuracy" in each for each in self.history)


def read_run(directory: pathlib.Path) -> FinishedRun:
    """Returns what the files of a run say.

    Raises:
      FileError: If one is no regular file, too long or damaged.
      OSError: If one is missing or cannot be read.
    """
    about, result = (
        _read_object(directory / name) for name in ("config.json", "result.json")
    )
    steps = _read_steps(directory / "metrics.jsonl")
    return FinishedRun(about, result, steps, _read_scores(directory / SCORES, result))


def _read_object(path: pathlib.Path) -> dict[str, Any]:
    found = read_json(path)
    with reading(path, "values of a run"):
        return json_value(found)


def _read_scores(
    path: pathlib.Path, result: Mapping[str, Any]
) -> dict[str, Any] | None:
    if not os.path.lexists(path):  # older runs, and those without a test split
        return None
    scores = _read_object(path)
    is_same = scores.get("state_digest") == result.get("state_digest")
    return scores if is_same else None


def _read_steps(path: pathlib.Path) -> list[Entry]:
    content = read_bytes(path, max_bytes=_MOST_METRICS)
    with reading(path, "a JSON object with an event in every line"):
        # From bytes, since the parser then knows what a byte-order mark is.
        # Python's JSON has NaN and infinities, which the standard has not.
        lines = (json_value(json.loads(line)) for line in content.splitlines())
        return [line for line in lines if line["event"] == "step"]
