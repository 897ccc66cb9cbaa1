"""Results of training steps as a table, and as the CSV file of timm's benchmark."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Sequence
from typing import Any

from cnn_jax.files import write_output
from cnn_jax.report.table import Column, Table, table_of

COLUMNS = (
    Column("model", "model"),
    Column("precision", "precision"),
    Column("framework", "framework"),
    Column("batch_size", "batch", format_spec="d"),
    Column("images_per_second", "images/s", format_spec=",.1f"),
    Column("step_seconds", "step", "ms", ".1f", 1e3),
    Column("low", "quartiles", "ms", ".1f", 1e3),
    Column("high", "and", "ms", ".1f", 1e3),
    Column("speed_up", "stock / this", format_spec=".2f"),
    Column("temporary_bytes", "temporaries", "MiB", ",.0f", 2**-20),
    Column("compile_seconds", "compiling", "s", ".1f"),
    Column("error", "failed"),
)


def training_table(results: Sequence[dict[str, Any]]) -> Table:
    rows = [
        dict(
            result, **dict(zip(("low", "high"), result["step_quartiles"], strict=True))
        )
        if "step_quartiles" in result
        else result
        for result in results
    ]
    return table_of("Training steps", COLUMNS, rows)


def csv_row(result: dict[str, Any]) -> dict[str, Any]:
    """Returns a result as timm's benchmark of training has it, and our own columns."""
    if "error" in result:
        measured = dict.fromkeys(("train_samples_per_sec", "train_step_time"))
    else:
        measured = {
            "train_samples_per_sec": round(result["images_per_second"], 2),
            "train_step_time": round(1e3 * result["step_seconds"], 3),
        }
    parameters = result.get("parameters")
    return {
        "model": result["model"],
        **measured,
        "train_batch_size": result["batch_size"],
        "train_img_size": result["image_size"],
        "param_count": None if parameters is None else round(parameters / 1e6, 2),
        "framework": result["framework"],
        "precision": result["precision"],
        **{
            name: result.get(name)
            for name in ("compile_seconds", "temporary_bytes", "speed_up", "error")
        },
    }


def write_csv(path: pathlib.Path, results: Sequence[dict[str, Any]]) -> None:
    rows = [csv_row(result) for result in results]
    content = io.StringIO(newline="")
    writer = csv.DictWriter(content, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_output(path, content.getvalue())
