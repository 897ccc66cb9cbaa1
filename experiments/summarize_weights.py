"""Makes `docs/weights.md` from the evaluations of weights that are committed.

    python experiments/summarize_weights.py

Each file of `experiments/results/weights/` is what `cnn-jax evaluate ... --json`
printed. It reads files only, in about a second.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cnn_jax.evaluation.results import KIND, facts
from cnn_jax.files import FileError, read_json, reading, write_output
from cnn_jax.messages import say
from cnn_jax.report.statistics import Interval
from cnn_jax.report.table import Column, Table, to_markdown
from cnn_jax.report.words import count

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECORDS = ROOT / "experiments" / "results" / "weights"
PAGE = ROOT / "docs" / "weights.md"

INTRODUCTION = """\
# Weights that were verified

Made by `python experiments/summarize_weights.py` from `experiments/results/weights/`,
where each file is what the command beside it printed. Images are prepared as the
weights want them and evaluated by the code that evaluates during training. Intervals
are Wilson's, 95 %, of the drawing of the examples; the calibration error is that of
Guo et al. (2017), over 15 bins.
"""

NOTES = {
    "cifar10_resnet20": "The set was re-encoded as JPEG, which loses some of what is "
    "in such small images: on the original, weights score higher.",
}
"""Sentences about the data of a record, by the file's name."""

COLUMNS = (
    Column("weights", "weights"),
    Column("model", "model"),
    Column("data", "data"),
    Column("right", "right"),
    Column("top1", "top-1", "%", ".2f", 100),
    Column("top5", "top-5", "%", ".2f", 100),
    Column("calibration_error", "calibration error", "%", ".1f", 100),
    Column("published", "published", "%", ".2f", 100),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=PAGE, type=pathlib.Path, help="the page")
    options = parser.parse_args(arguments)
    paths = sorted(RECORDS.glob("*.json"))
    write_output(options.out, summarize(paths), inputs=paths)
    say(f"{options.out}: {count(len(paths), 'evaluation')}")


def summarize(paths: Sequence[pathlib.Path]) -> str:
    """Returns the page of some records, in their order.

    Raises:
      FileError: If a file is none that `cnn-jax evaluate --json` printed.
    """
    records = {}
    for path in paths:
        record = read_json(path)
        if record.get("kind") != KIND:
            raise FileError(f"{path}: got another file, expected an evaluation.")
        records[path] = record
    rows = [_row(path, record) for path, record in records.items()]
    parts = [INTRODUCTION, to_markdown(Table("Scores", COLUMNS, rows))]
    parts += [_section(path, record) for path, record in records.items()]
    return "\n".join(parts)


def _row(path: pathlib.Path, record: Mapping[str, Any]) -> dict[str, Any]:
    with reading(path, "an evaluation"):
        scores, published = record["scores"], record["published"]
        top5 = scores["top5_accuracy"]
        return {
            "weights": record["weights"],
            "model": record["model"],
            "data": f"{record['dataset']}, {record['split']}",
            "right": f"{scores['num_correct']:,} of {scores['num_examples']:,}",
            "top1": Interval(**scores["accuracy"]),
            "top5": None if top5 is None else Interval(**top5),
            "calibration_error": scores["calibration_error"],
            "published": None if published is None else published["top1"],
        }


def _section(path: pathlib.Path, record: Mapping[str, Any]) -> str:
    with reading(path, "an evaluation"):
        lines = [f"- {name}: {value}" for name, value in facts(record).items()]
        if record["published"] is not None:
            lines.append(f"- Published: {record['published']['source']}")
        command = record["command"]
    note = [NOTES[path.stem], ""] if path.stem in NOTES else []
    return "\n".join(
        [f"## {path.stem}", "", "```sh", command, "```", "", *note, *lines, ""]
    )


if __name__ == "__main__":
    main()
