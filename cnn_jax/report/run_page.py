"""The page of one training run, from the files that it leaves behind.

Everything on it is read from `config.json`, `metrics.jsonl` and `result.json` (see
`cnn_jax.training.run.directory.files`), and of these only what a finished run writes
again when it is resumed: no date, and nothing of the process that happens to write the
page.
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
from collections.abc import Mapping, Sequence
from typing import Any

from cnn_jax.checkpoint.lock import LOCK, DirectoryLock
from cnn_jax.files import json_value, read_bytes, read_json, reading, write_text
from cnn_jax.report import html, plots, study
from cnn_jax.report.environment import without_private_paths
from cnn_jax.report.statistics import accuracy_interval, student_interval
from cnn_jax.report.table import Column, Table, table_of
from cnn_jax.report.words import count, duration
from cnn_jax.training import TrainConfig
from cnn_jax.training.step.evaluation import NUM_BINS

PAGE = "report.html"
"""The page's name in the run directory."""

Entry = Mapping[str, Any]
"""A line of `metrics.jsonl`, or an epoch of the history; None where not finite."""

SPLITS = {"train": "Training", "validation": "Validation", "test": "Test"}
"""Prefixes of an epoch's metrics and their labels, in the order of their colours."""

UNSHOWN = ("resume", "coordinator_address", "process_id", "checkpoint_dir")
"""Fields that say how a run was started and where, beside those that `study.public`
leaves out."""

_MOST_METRICS = 2**26
"""The longest `metrics.jsonl` that is read: a quarter of a million lines."""

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
        note="The gap between confidence and accuracy, as a mean over the examples "
        f"in {NUM_BINS} bins of confidence (Guo et al. 2017).",
    ),
    Column("num_examples", "Examples", "", ",d"),
)

EPOCH_COLUMNS = (
    Column("epoch", "Epoch", "", "d"),
    Column("train_loss", "Loss", "training", ".4f"),
    Column("train_accuracy", "Accuracy", "training, %", ".2f", 100),
    Column("train_skipped_steps", "Skipped", "steps", "d"),
    Column("validation_loss", "Loss", "validation", ".4f"),
    Column("validation_accuracy", "Accuracy", "validation, %", ".2f", 100, "highest"),
    Column("test_loss", "Loss", "test", ".4f"),
    Column("test_accuracy", "Accuracy", "test, %", ".2f", 100),
    Column("test_top5_accuracy", "Top-5", "test, %", ".2f", 100),
    Column("test_calibration_error", "Calibration", "error, test, %", ".1f", 100),
    Column("learning_rate", "Learning rate", "", "#.3g"),
    Column("seconds", "Training", "s", ",.1f"),
    Column("images_per_second", "Images/s", "", ",.0f"),
    Column("waiting_share", "Waiting", "for data, %", ".1f", 100),
)

SHOWN_IF_NOT_ZERO = ("train_skipped_steps", "waiting_share")
"""Columns of epochs that are shown only if not all of their numbers are 0."""


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """The content of a finished run's files.

    Attributes:
      about: The content of `config.json`: configuration, versions, fingerprints.
      result: That of `result.json`.
      steps: The lines of `metrics.jsonl` that are about steps.
    """

    about: Mapping[str, Any]
    result: Mapping[str, Any]
    steps: Sequence[Entry]

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


def write_run_page(run_dir: str | os.PathLike[str]) -> pathlib.Path:
    """Writes the page of a finished run into its directory.

    Args:
      run_dir: The directory, with `config.json`, `metrics.jsonl` and `result.json`.

    Returns:
      Where the page is: `report.html` in the directory.

    Raises:
      FileError: If a file of the run is damaged, or not of a run.
      OSError: If there is no finished run, or the page cannot be written: an old one
        then stays.
      DirectoryInUseError: If another process continues the run.
    """
    directory = pathlib.Path(run_dir).expanduser().absolute()
    run = read_run(directory)
    with reading(directory, "the files of a finished run"):
        page = render_run(run)
    # Where no run of this version has been, none writes.
    is_locked = os.path.lexists(directory / LOCK)
    with DirectoryLock(directory) if is_locked else contextlib.nullcontext():
        write_text(directory / PAGE, page)
    return directory / PAGE


def read_run(directory: pathlib.Path) -> FinishedRun:
    """Returns what the files of a run say.

    Raises:
      FileError: If one is no regular file, too long or damaged.
      OSError: If one is missing or cannot be read.
    """
    about, result = (
        _read_object(directory / name) for name in ("config.json", "result.json")
    )
    return FinishedRun(about, result, _read_steps(directory / "metrics.jsonl"))


def _read_object(path: pathlib.Path) -> dict[str, Any]:
    found = read_json(path)
    with reading(path, "values of a run"):
        return json_value(found)


def _read_steps(path: pathlib.Path) -> list[Entry]:
    content = read_bytes(path, max_bytes=_MOST_METRICS)
    with reading(path, "a JSON object with an event in every line"):
        # From bytes, since the parser then knows what a byte-order mark is.
        # Python's JSON has NaN and infinities, which the standard has not.
        lines = (json_value(json.loads(line)) for line in content.splitlines())
        return [line for line in lines if line["event"] == "step"]


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
        f"{run.model} on {_public_text(run.config['dataset'])}",
        summarize_run(run),
        sections,
        kicker="cnn_jax, one training run",
    )


def summarize_run(run: FinishedRun) -> str:
    """Returns the outcome in one paragraph."""
    test, num_epochs = run.result["test"], len(run.history)
    reached = "was trained without a test split, up to"
    if test is not None:
        reached = (
            f"reached {ACCURACY.text(test['accuracy'])} % on "
            f"{count(test['num_examples'], 'test example')} with"
        )
    sentences = [
        f"On {_public_text(run.config['dataset'])}, {run.model} {reached} the weights "
        f"of epoch {run.best_epoch} of {num_epochs}; training took "
        f"{duration(run.result['train_seconds'])}.",
        "That epoch's validation accuracy is the best of all."
        if run.validates
        else "That epoch is the last: no validation split was held out to choose by.",
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
    rows = [
        {"split": label}
        | {
            column.key: run.best.get(f"{name}_{column.key}")
            for column in SPLIT_COLUMNS[1:]
        }
        | {metric: run.best.get(f"{name}_{metric}") for metric in run.metrics}
        for name, label in SPLITS.items()
        if any(key.startswith(f"{name}_") for key in run.best) and name != "test"
    ]
    notes = ["Training: the mean over the epoch, while its steps changed the weights."]
    if run.result["test"] is not None:
        test = dict(run.result["test"])
        if test["accuracy"] is not None:
            accuracy = accuracy_interval([test["accuracy"]], test["num_examples"])
            test["accuracy"] = accuracy
            notes.append(study.interval_note(1))
        rows.append({"split": SPLITS["test"], **test})
    title = f"Epoch {run.best_epoch} of {len(run.history)}"
    columns = (*SPLIT_COLUMNS, *(Column(name, name, "", ".4g") for name in run.metrics))
    return table_of(title, columns, rows, notes=notes)


def epoch_table(run: FinishedRun) -> Table:
    """Returns a row for each epoch."""
    silent = [
        key
        for key in SHOWN_IF_NOT_ZERO
        if not any(epoch.get(key) for epoch in run.history)
    ]
    columns = [column for column in EPOCH_COLUMNS if column.key not in silent]
    notes = [f"The result is that of epoch {run.best_epoch}."]
    if run.validates:
        notes.append("Bold: the best validation accuracy; of equals the first counts.")
    return table_of("Every epoch", columns, run.history, notes=notes)


# ---------------------------------------------------------------------------- charts


def learning_curves(run: FinishedRun) -> list[Any]:
    """Returns the blocks with the charts, or with the sentence why there are none."""
    if importlib.util.find_spec("matplotlib") is None:
        return [
            html.Paragraph(
                "The charts need matplotlib, which was not installed when this page "
                "was written: pip install 'cnn_jax[report]', then repeat the run's "
                "command with --resume."
            )
        ]
    drawn = [
        *(_epoch_chart(run, *form) for form in EPOCH_CHARTS),
        *(_step_chart(run, *form) for form in STEP_CHARTS),
    ]
    charts = [chart for chart in drawn if chart is not None]
    if not charts:
        return [html.Paragraph("No epoch and no step has a finite number to draw.")]
    return [html.Charts(charts)]


EPOCH_CHARTS = (
    ("loss", "Loss", "mean loss", 1, (0, math.inf)),
    ("accuracy", "Accuracy", "accuracy, %", 100, (0, 1)),
)
"""Charts over epochs, for every split: the metric, the title, the label of the y
axis, what values are multiplied by, and their bounds."""

STEP_CHARTS = (
    ("loss", "Training loss by step", "loss", 0),
    ("learning_rate", "Learning rate by step", "learning rate", 3),
)
"""Charts over steps: the field, the title, the name of the line and of the y
axis, and the style."""


def _epoch_chart(
    run: FinishedRun,
    metric: str,
    title: str,
    label: str,
    scale: float,
    bounds: tuple[float, float],
) -> html.Chart | None:
    points = {
        name: _points(run.history, "epoch", f"{name}_{metric}") for name in SPLITS
    }
    curves = [
        _curve(SPLITS[name].lower(), points[name], style)
        for style, name in enumerate(SPLITS)
        if points[name]
    ]
    caption = (
        "Training: the mean over an epoch, while it was trained; else after it. The "
        f"result is that of epoch {run.best_epoch}."
    )
    if any(0 < len(drawn) < len(run.history) for drawn in points.values()):
        caption += " Epochs without a finite number have no point."
    return _chart(
        curves,
        title,
        caption,
        x_label="epoch",
        y_label=label,
        scale=scale,
        bounds=bounds,
    )


def _step_chart(
    run: FinishedRun, field: str, title: str, label: str, style: int
) -> html.Chart | None:
    points = _points(run.steps, "step", field)
    size = math.ceil(len(points) / MAX_POINTS)
    caption = f"From the {count(len(points), 'line')} of metrics.jsonl about steps"
    caption += f"; each point is the mean of up to {size}." if size > 1 else "."
    groups = [
        points[start : start + size] for start in range(0, len(points), size or 1)
    ]
    means = [
        (statistics.fmean(x for x, _ in group), statistics.fmean(y for _, y in group))
        for group in groups
    ]
    curves = [_curve(label, means, style)] if means else []
    return _chart(curves, title, caption, x_label="step", y_label=label)


def _points(
    entries: Sequence[Entry], place: str, field: str
) -> list[tuple[float, float]]:
    """Returns where a field has a finite number, and that number."""
    return [
        (each[place], each[field])
        for each in entries
        if each.get(place) is not None and each.get(field) is not None
    ]


def _curve(
    label: str, points: Sequence[tuple[float, float]], style: int
) -> plots.Curve:
    places, values = zip(*points, strict=True)
    return plots.Curve(
        label, places, [student_interval([value]) for value in values], style
    )


def _chart(
    curves: Sequence[plots.Curve], title: str, caption: str, **options: Any
) -> html.Chart | None:
    if not curves:
        return None
    ends = "; ".join(
        f"{curve.label} {curve.values[-1].mean * options.get('scale', 1):.3g}"
        for curve in curves
    )
    svg = plots.line_chart(
        curves,
        title=title,
        description=f"{title} by {options['x_label']}. Last values: {ends}.",
        **options,
    )
    return html.Chart(svg, title, caption)


# ----------------------------------------------------------------------------- facts


def configuration(run: FinishedRun) -> list[Any]:
    """Returns the blocks with the configuration."""
    # As JSON has them: what was read holds no tuples.
    defaults = json.loads(json.dumps(TrainConfig().to_dict()))
    fields = study.public(
        {name: value for name, value in run.config.items() if name not in UNSHOWN}
    )
    changed = [
        name
        for name, value in fields.items()
        if name not in defaults or value != defaults[name]
    ]
    rows = [
        {
            "field": name,
            "value": _public_text(fields[name]),
            "default": _public_text(defaults[name]) if name in defaults else None,
        }
        for name in changed
    ]
    columns = (
        Column("field", "Field"),
        Column("value", "This run"),
        Column("default", "Default"),
    )
    rest = {
        name: _public_text(value)
        for name, value in fields.items()
        if name not in changed
    }
    blocks: list[Any] = []
    if rows:
        blocks.append(Table("What differs from the defaults", columns, rows))
    else:
        blocks.append(html.Paragraph("Every field has its default."))
    if rest:
        title = f"{count(len(rest), 'field')} as TrainConfig has them"
        blocks.append(html.Details(title, [html.Facts(rest)]))
    return blocks


def _public_text(value: Any) -> str:
    """Returns a field's value without the absolute part of a path in it."""
    if not isinstance(value, str):
        return str(value)
    if value.startswith("folder:"):
        return "folder:" + _public_text(value.removeprefix("folder:"))
    return without_private_paths(value)


def _costs(run: FinishedRun) -> dict[str, str]:
    result = run.result
    facts = {
        "Training time": f"{duration(result['train_seconds'])}, with logging and "
        "checkpoints, without compiling and evaluation",
        "Images per second": f"{result['images_per_second']:,.0f}",
    }
    if result.get("flops_utilization") is not None:
        facts["FLOPs utilization"] = (
            f"{100 * result['flops_utilization']:.1f} % of the devices' peak"
        )
    return facts


def _model_facts(run: FinishedRun) -> dict[str, str]:
    identity = run.about.get("model")
    if identity is None:  # as older runs have it
        return {}
    registered = "registered" if identity["name"] else "the user's own"
    return {"Model": f"{run.model}: {identity['module']}, {registered}"}


def _making(run: FinishedRun) -> dict[str, str]:
    config, about = run.config, run.about
    prints = [f"{name} {value}" for name, value in about["dataset"].items()]
    versions = [f"{name} {value}" for name, value in about["versions"].items()]
    facts = _model_facts(run)
    own = run.about.get("own_parts", {})
    facts |= {
        f"{part.capitalize()} of the user's own": own[name]
        for part, name in (("optimizer", "optimizer"), ("loss", "loss_fn"))
        if name in own
    }
    facts |= {
        "Dataset": f"{_public_text(config['dataset'])}: trained on "
        f"{config['train_split']}, tested on {config['test_split']}",
        "Fingerprints": ", ".join(prints),
        "Seed": str(config["seed"]),
        "Random numbers": about["random"]["generator"],
        "Versions": ", ".join(versions),
        "Digest of the final state": run.result["state_digest"],
    }
    num_bad = len(run.result.get("bad_images", ()))
    if num_bad:
        facts["Unreadable"] = f"{count(num_bad, 'image')}, skipped"
    return facts
