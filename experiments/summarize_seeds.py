"""Puts finished runs that differ in their seed only into one record.

    python experiments/summarize_seeds.py RUN_DIR... --title TITLE --out RECORD

Prints the mean of the test accuracies with Student's 95 % interval and a table of
the seeds, and writes them to RECORD.json and RECORD.md with the configuration that the
runs share, their versions and their histories. It reads files only, in about a second.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cnn_jax.files import json_value, read_json, reading, write_output
from cnn_jax.messages import say, warn
from cnn_jax.report.environment import without_private_paths
from cnn_jax.report.statistics import Interval, student_interval
from cnn_jax.report.table import Column, Table, to_markdown
from cnn_jax.report.words import duration

OWN = ("seed", "run_dir", "resume")
"""The fields in which the runs may differ."""

COLUMNS = (
    Column("seed", "seed", format_spec="d"),
    Column("epoch", "epoch", format_spec="d"),
    Column("train_accuracy", "train accuracy", "%", ".2f", 100),
    Column("accuracy", "test accuracy", "%", ".2f", 100),
    Column("loss", "test loss", "", ".3f"),
    Column("calibration_error", "calibration error", "%", ".1f", 100),
    Column("seconds", "training", "min", ".1f", 1 / 60),
    Column("step_seconds", "step, median", "ms", ".0f", 1000),
)


NUMBERS = ("seed", "epoch", "accuracy", "seconds")
"""The numbers that no row may lack."""


def read_run(directory: pathlib.Path) -> dict[str, Any]:
    """Returns a finished run's configuration, versions and result.

    Raises:
      ValueError: If the directory holds no finished run.
    """
    try:
        about, result = (
            read_json(directory / name) for name in ("config.json", "result.json")
        )
        run = {**about, "result": result}
        with reading(directory, "the files of a finished run"):
            _check(run)
    except (OSError, ValueError) as error:
        raise ValueError(f"{directory} holds no finished run: {error}") from error
    return run


def _check(run: Mapping[str, Any]) -> None:
    """Reads once what the record is made of."""
    row = row_of(run)
    wrong = [
        name
        for name, value in row.items()
        if not isinstance(value, int | float) and (value is not None or name in NUMBERS)
    ]
    if wrong:
        raise TypeError(f"{', '.join(wrong)} should be numbers")
    for name in ("config", "dataset", "versions"):
        if not isinstance(run[name], dict):
            raise TypeError(f"{name} should be an object")


def shared_config(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what the runs' configurations have in common: all but `OWN`.

    Raises:
      ValueError: If they differ in another field, in their data or their versions, or
        two of them have the same seed.
    """
    configs = [
        {name: value for name, value in run["config"].items() if name not in OWN}
        for run in runs
    ]
    for run, config in zip(runs, configs, strict=True):
        fields = [name for name in config if config[name] != configs[0].get(name)]
        fields += [
            name for name in ("dataset", "versions") if run[name] != runs[0][name]
        ]
        if fields:
            raise ValueError(
                f"seeds {runs[0]['config']['seed']} and {run['config']['seed']} differ "
                f"in {', '.join(fields)}: expected runs of one configuration."
            )
    seeds = [run["config"]["seed"] for run in runs]
    if len({*seeds}) < len(seeds):
        raise ValueError(f"seeds {seeds}: expected each once.")
    return configs[0]


def row_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a run's row of the table: that of the epoch its result is of."""
    result = run["result"]
    (epoch,) = (
        record
        for record in result["history"]
        if record["epoch"] == result["best_epoch"]
    )
    return {
        "seed": run["config"]["seed"],
        "epoch": epoch["epoch"],
        "train_accuracy": epoch["train_accuracy"],
        **{
            name: result["test"][name]
            for name in ("accuracy", "loss", "calibration_error")
        },
        "seconds": result["train_seconds"] + result["compile_seconds"],
        "step_seconds": result["step_seconds_median"],
    }


def sentence(accuracy: Interval, seconds: float) -> str:
    """Returns the outcome in one sentence."""
    seeds = "one seed"
    if accuracy.num_samples > 1:
        ends = f"{accuracy.low:.2%} to {accuracy.high:.2%}"
        seeds = f"mean of {accuracy.num_samples} seeds (95 %: {ends})"
    return (
        f"Test accuracy {accuracy.mean:.2%}, {seeds}; "
        f"{duration(seconds)} of training and compiling in all."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("runs", nargs="+", type=pathlib.Path, metavar="RUN_DIR")
    add("--title", default="Runs that differ in their seed", help="of the record")
    add("--command", default="", help="what made them, for a reader")
    add("--hardware", default="", help="what they ran on, and what else it did")
    add("--out", type=pathlib.Path, help="write RECORD.json and RECORD.md")
    options = parser.parse_args(arguments)
    try:
        runs = [read_run(directory) for directory in options.runs]
        runs.sort(key=lambda run: run["config"]["seed"])
        config = shared_config(runs)
    except ValueError as error:
        warn(str(error))
        return 2
    rows = [row_of(run) for run in runs]
    accuracy = student_interval([row["accuracy"] for row in rows])
    outcome = sentence(accuracy, sum(row["seconds"] for row in rows))
    table = to_markdown(Table("Seed by seed", COLUMNS, rows)).rstrip()
    say(f"{outcome}\n\n{table}")
    if options.out:
        _write(options, config, runs, rows, accuracy, outcome, table)
    return 0


def _write(options, config, runs, rows, accuracy, outcome, table) -> None:
    versions = ", ".join(f"{name} {v}" for name, v in runs[0]["versions"].items())
    about = {"command": options.command, "hardware": options.hardware}
    record = {
        "title": options.title,
        **about,
        "versions": runs[0]["versions"],
        "dataset": runs[0]["dataset"],
        "config": {
            name: without_private_paths(value) if isinstance(value, str) else value
            for name, value in config.items()
        },
        "test_accuracy": accuracy,
        "seeds": rows,
        "histories": [run["result"]["history"] for run in runs],
    }
    parts = [
        f"# {options.title}",
        f"```sh\n{options.command}\n```" if options.command else "",
        outcome,
        table,
        f"{options.hardware} {versions}.".strip(),
    ]
    texts = {
        ".json": json.dumps(json_value(record), indent=1) + "\n",
        ".md": "\n\n".join(filter(None, parts)) + "\n",
    }
    for suffix, text in texts.items():
        write_output(options.out.with_suffix(suffix), text, inputs=options.runs)


if __name__ == "__main__":
    sys.exit(main())
