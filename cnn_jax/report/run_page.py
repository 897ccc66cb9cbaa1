"""The page of one training run, from the files that it leaves behind.

Everything on it is read from `config.json`, `metrics.jsonl` and `result.json` (see
`cnn_jax.training.records`), and of these only what a finished run writes again when it
is resumed: no date, and nothing of the process that happens to write the page.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cnn_jax.report import html, plots, study
from cnn_jax.report.environment import without_private_paths
from cnn_jax.report.statistics import (
    Interval,
    accuracy_interval,
    student_interval,
)
from cnn_jax.report.table import Column, Table
from cnn_jax.report.words import count, duration
from cnn_jax.training import TrainConfig
from cnn_jax.training.evaluation import NUM_BINS

PAGE = "report.html"
"""The page's name in the run directory."""

Record = Mapping[str, Any]
"""A line of `metrics.jsonl`, or an epoch of the history; None where not finite."""

SPLITS = {"train": "Training", "validation": "Validation", "test": "Test"}
"""What the names of an epoch's metrics begin with, in the order of their colours."""

UNSHOWN = ("resume", "coordinator_address", "process_id")
"""Fields that say how a run was started, beside those that `study.public` leaves out:
where its files lie."""

MAX_POINTS = 200
"""Points of a curve over steps; of a longer run each is the mean of several lines."""

ACCURACY = Column("accuracy", "Accuracy", "%", ".2f", 100)

SPLIT_COLUMNS = (
    Column("split", "Split"),
    ACCURACY,
    Column("top5_accuracy", "Top-5", "%", ".2f", 100),
    Column("loss", "Loss", "", ".4f"),
    Column(
        "calibration_error",
        "Calibration error",
        "%",
        ".1f",
        100,
        note="How far confidence and accuracy lie apart, as a mean over the examples "
        f"in {NUM_BINS} bins of confidence (Guo et al. 2017).",
    ),
    Column("num_examples", "Examples", "", ",d"),
)

EPOCH_COLUMNS = (
    Column("epoch", "Epoch", "", "d"),
    Column("train_loss", "Training loss", "", ".4f"),
    Column("train_accuracy", "Training accuracy", "%", ".2f", 100),
    Column("train_skipped_steps", "Skipped steps", "", "d"),
    Column("validation_loss", "Validation loss", "", ".4f"),
    Column("validation_accuracy", "Validation accuracy", "%", ".2f", 100, "highest"),
    Column("test_loss", "Test loss", "", ".4f"),
    Column("test_accuracy", "Test accuracy", "%", ".2f", 100),
    Column("test_top5_accuracy", "Test top-5", "%", ".2f", 100),
    Column("test_calibration_error", "Calibration error", "%", ".1f", 100),
    Column("learning_rate", "Learning rate", "", ".3g"),
    Column("seconds", "Training", "s", ",.1f"),
    Column("images_per_second", "Images/s", "", ",.0f"),
    Column("waiting_share", "Waiting for data", "%", ".1f", 100),
)

SHOWN_IF_ANY = ("train_skipped_steps", "waiting_share")
"""Columns of epochs that say something only where a number is not 0."""


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """What the files of a finished run say.

    Attributes:
      about: The content of `config.json`: configuration, versions, fingerprints.
      result: That of `result.json`.
      steps: The lines of `metrics.jsonl` that are about steps.
    """

    about: Mapping[str, Any]
    result: Mapping[str, Any]
    steps: Sequence[Record]

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration's fields."""
        return self.about["config"]

    @property
    def history(self) -> Sequence[Record]:
        """The epochs."""
        return self.result["history"]

    @property
    def best(self) -> Record:
        """The epoch that the result is of."""
        epochs = (each for each in self.history if each.get("epoch") == self.best_epoch)
        return next(epochs, {})

    @property
    def best_epoch(self) -> int:
        """Its number, from 1."""
        return self.result["best_epoch"]

    @property
    def validates(self) -> bool:
        """Whether a validation split chose it."""
        return any("validation_accuracy" in each for each in self.history)


def write_run_page(run_dir: str | os.PathLike) -> pathlib.Path:
    """Writes the page of a finished run into its directory.

    Args:
      run_dir: The directory, with `config.json`, `metrics.jsonl` and `result.json`.

    Returns:
      Where the page is: `report.html` in the directory.

    Raises:
      ValueError: If a file of the run is not JSON.
      OSError: If there is no finished run, or the page cannot be written: an old one
        then stays.
    """
    directory = pathlib.Path(run_dir).expanduser().absolute()
    page = render_run(read_run(directory))
    _replace(directory / PAGE, page)
    return directory / PAGE


def read_run(directory: pathlib.Path) -> FinishedRun:
    """Returns what the files of a run say.

    Raises:
      ValueError: If one is not JSON.
      OSError: If one is missing or cannot be read.
    """
    about, result, metrics = (
        _read(directory / name, parse)
        for name, parse in (
            ("config.json", json.loads),
            ("result.json", json.loads),
            ("metrics.jsonl", _parse_lines),
        )
    )
    steps = [line for line in metrics if line["event"] == "step"]
    return FinishedRun(about, result, steps)


def _read(path: pathlib.Path, parse: Callable[[str], Any]) -> Any:
    text = path.read_text(encoding="utf-8")
    try:
        return _finite(parse(text))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, but {error}") from error


def _parse_lines(text: str) -> list[Record]:
    return [json.loads(line) for line in text.splitlines()]


def _finite(value: Any) -> Any:
    """Maps what Python's JSON has beyond the standard, NaN and infinities, to None."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _replace(path: pathlib.Path, text: str) -> None:
    """Writes a whole file, or leaves the old one; an error names the file."""
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()  # what there is of it takes what space there is
        raise OSError(error.errno, error.strerror, str(path)) from error


def render_run(run: FinishedRun) -> str:
    """Returns the page of a run."""
    sections = [
        html.Section("Results", [split_table(run), html.Facts(_costs(run))]),
        html.Section("Learning curves", learning_curves(run)),
        html.Section(
            "Every epoch", [html.Details("Epoch by epoch", [epoch_table(run)])]
        ),
        html.Section("Configuration", configuration(run)),
        html.Section("How this was made", [html.Facts(_making(run))]),
    ]
    return html.render_page(
        f"{run.config['model']} on {_public_text(run.config['dataset'])}",
        summarize_run(run),
        sections,
        kicker="cnn_jax, one training run",
    )


def summarize_run(run: FinishedRun) -> str:
    """Returns the outcome in one paragraph."""
    test, num_epochs = run.result["test"], len(run.history)
    sentences = [
        f"On {_public_text(run.config['dataset'])}, {run.config['model']} reached "
        f"{ACCURACY.text(test['accuracy'])} % on "
        f"{count(test['num_examples'], 'test example')} with the weights of epoch "
        f"{run.best_epoch} of {num_epochs}, after "
        f"{duration(run.result['train_seconds'])} of training.",
        "Its validation accuracy is the best of all epochs."
        if run.validates
        else "It is the last: no validation split was held out to choose by.",
    ]
    if run.result["stopped_early"]:
        sentences.append(
            f"Training stopped early, before epoch {num_epochs + 1} of "
            f"{run.config['epochs']}: patience had run out."
        )
    return " ".join(sentences)


# ---------------------------------------------------------------------------- tables


def split_table(run: FinishedRun) -> Table:
    """Returns a row for each split, of the epoch that the result is of."""
    rows = []
    for name, label in SPLITS.items():
        metrics = {
            key.removeprefix(f"{name}_"): value
            for key, value in run.best.items()
            if key.startswith(f"{name}_")
        }
        notes = []
        if name == "test":
            metrics = dict(run.result["test"])
            if metrics["accuracy"] is not None and metrics["num_examples"]:
                metrics["accuracy"] = accuracy_interval(
                    [metrics["accuracy"]], metrics["num_examples"]
                )
                notes.append(study.interval_note(1))
        known = {column.key: metrics.get(column.key) for column in SPLIT_COLUMNS}
        if any(value is not None for value in known.values()):
            rows.append(known | {"split": label})
    return Table(
        f"Epoch {run.best_epoch} of {len(run.history)}",
        _filled(SPLIT_COLUMNS, rows),
        rows,
        [*notes, "Training: the mean over the epoch, while its steps changed weights."],
    )


def epoch_table(run: FinishedRun) -> Table:
    """Returns a row for each epoch."""
    keys = [column.key for column in EPOCH_COLUMNS]
    rows = [{key: each.get(key) for key in keys} for each in run.history]
    notes = [f"The result is that of epoch {run.best_epoch}."]
    if run.validates:
        notes.append("Bold: the best; of equals the first counts.")
    columns = [
        column
        for column in _filled(EPOCH_COLUMNS, rows)
        if column.key not in SHOWN_IF_ANY or any(row[column.key] for row in rows)
    ]
    return _without_hidden(Table("Every epoch", EPOCH_COLUMNS, rows, notes), columns)


def _filled(columns: Sequence[Column], rows: Sequence[Record]) -> list[Column]:
    """Returns the columns in which something stands."""
    return [
        column
        for column in columns
        if any(row.get(column.key) is not None for row in rows)
    ]
