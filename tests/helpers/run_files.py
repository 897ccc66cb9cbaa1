"""Readers of runs' files, without the times that no two runs share."""

import json
import pathlib

from cnn_jax.training.run.directory.files import CLOCKED


def without_clock(entries):
    """Returns the entries without what no two runs have alike."""
    return [
        {name: value for name, value in entry.items() if name not in CLOCKED}
        for entry in entries
    ]


def read_metrics(run_dir):
    """Returns the lines of metrics.jsonl, without what a clock wrote."""
    lines = pathlib.Path(run_dir, "metrics.jsonl").read_text().splitlines()
    return without_clock(map(json.loads, lines))


def read_end(run_dir):
    """Returns what a run ended with and its metrics, without what a clock wrote."""
    result = json.loads(pathlib.Path(run_dir, "result.json").read_text())
    names = ("state_digest", "best_epoch", "test", "stopped_early")
    return {
        **{name: result[name] for name in names},
        "history": without_clock(result["history"]),
        "metrics": read_metrics(run_dir),
    }
