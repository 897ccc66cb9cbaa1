"""`cnn-jax models`."""

from __future__ import annotations

import argparse
import dataclasses

from cnn_jax.cli.usage import (
    UsageError,
    listed,
    nearest,
    print_json,
    shape_text,
)
from cnn_jax.models import list_models, model_info
from cnn_jax.models.registry import ModelInfo
from cnn_jax.ranges import shown
from cnn_jax.report.table import Column, Table, print_table
from cnn_jax.report.words import count

HELP = "List the models, oldest first."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "pattern", nargs="?", default="*", help="a shell pattern, such as 'resnet*'"
    )


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
    names = list_models(options.pattern)
    if not names:
        everything = list_models()
        hint = nearest(options.pattern.strip("*?")[:100], everything)
        raise UsageError(
            f"no model matches {shown(options.pattern)}; "
            f"{hint or 'expected a pattern that fits one of ' + listed(everything)}"
        )
    infos = sorted(map(model_info, names), key=lambda info: (info.year, info.name))
    if options.json:
        print_json(
            [
                {
                    **dataclasses.asdict(info),
                    "input_size": info.input_size,
                    "mean": info.mean,
                    "std": info.std,
                }
                for info in infos
            ]
        )
        return 0
    columns = (
        Column("name", "Model"),
        Column("year", "Year", format_spec="d"),
        Column("parameters", "Parameters", format_spec=",d"),
        Column("macs", "MACs", "M", ",.1f", 1e-6),
        Column("top1", "Top-1", "%", ".2f"),
        Column("input", "Input"),
        Column("num_classes", "Classes", format_spec=",d"),
    )
    rows = [
        {
            "name": info.name,
            "year": info.year,
            "parameters": info.parameters,
            "macs": info.macs,
            "top1": info.top1,
            "input": shape_text(info.input_shape),
            "num_classes": info.num_classes,
        }
        for info in infos
    ]
    notes = ["Parameters and multiply-adds (MACs) of one image, at the input shown."]
    families: dict[str, dict[str, None]] = {}
    for info in infos:
        if info.top1 is not None:
            families.setdefault(info.top1_source, {})[info.family] = None
    notes += [
        f"Top-1 of {', '.join(names)}: {source}." for source, names in families.items()
    ]
    if len(infos) == 1:
        notes += _image_notes(infos[0])
    print_table(Table(count(len(rows), "model"), columns, rows, notes))
    return 0


def _image_notes(info: ModelInfo) -> list[str]:
    """Returns a line on how images become the input, and one for each exception."""
    return [
        f"Images: {info.preprocessing}.",
        *(
            f"Images for {source}'s weights: {preprocessing}."
            for source, preprocessing in info.preprocessing_by_source.items()
        ),
    ]
