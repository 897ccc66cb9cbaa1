"""The page of one training run, from the files that it leaves behind.

Everything on it is read from `config.json`, `metrics.jsonl`, `result.json` and, of its
test split, `scores.json` (see `finished_run`), and of these only what a finished run
writes again when it is resumed: no date, and nothing of the process that happens to
write the page.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from typing import Any

from cnn_jax.checkpoint.lock import LOCK, DirectoryLock
from cnn_jax.files import reading, write_text
from cnn_jax.report import html, study
from cnn_jax.report.environment import public_text
from cnn_jax.report.evaluation_page import score_blocks
from cnn_jax.report.finished_run import SPLITS, FinishedRun, read_run
from cnn_jax.report.learning_curves import learning_curves
from cnn_jax.report.statistics import accuracy_interval
from cnn_jax.report.table import Column, Table, table_of
from cnn_jax.report.words import count, duration
from cnn_jax.training import TrainConfig
from cnn_jax.training.step.evaluation import NUM_BINS

PAGE = "report.html"
"""The page's name in the run directory."""

UNSHOWN = ("resume", "coordinator_address", "process_id", "checkpoint_dir")
"""Fields that say how a run was started and where, beside those that `study.public`
leaves out."""

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


def render_run(run: FinishedRun) -> str:
    """Returns the page of a run."""
    of_test = []
    if run.scores is not None:
        of_test = score_blocks(run.scores, of=" on the test split")
    sections = [
        html.Section("Results", [split_table(run), html.Facts(_costs(run))]),
        html.Section("Learning curves", learning_curves(run)),
        html.Section(
            "Every epoch", [html.Details("Epoch by epoch", [epoch_table(run)])]
        ),
        *of_test,
        html.Section("Configuration", configuration(run)),
        html.Section("How this was made", [html.Facts(_making(run))]),
    ]
    return html.render_page(
        f"{run.model} on {public_text(run.config['dataset'])}",
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
        f"On {public_text(run.config['dataset'])}, {run.model} {reached} the weights "
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
            "value": public_text(fields[name]),
            "default": public_text(defaults[name]) if name in defaults else None,
        }
        for name in changed
    ]
    columns = (
        Column("field", "Field"),
        Column("value", "This run"),
        Column("default", "Default"),
    )
    rest = {
        name: public_text(value)
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
    if result.get("keeps_memory"):
        facts["Freed memory"] = "kept by the process for the next step"
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
        "Dataset": f"{public_text(config['dataset'])}: trained on "
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
