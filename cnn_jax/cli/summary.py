"""`cnn-jax summary`."""

from __future__ import annotations

import argparse
import re

from cnn_jax.cli.usage import (
    UsageError,
    print_json,
    shape_text,
    working,
)
from cnn_jax.models import create_model, model_info
from cnn_jax.models.registry import sized_for
from cnn_jax.ranges import MAX_SIDE, shown
from cnn_jax.report.table import Column, Table, print_table

HELP = "Count a model's parameters and multiply-adds, layer by layer."


def input_size(text: str) -> tuple[int, int]:
    """Parses `32` or `32x48`."""
    match = re.fullmatch(r"(\d{1,9})(?:x(\d{1,9}))?", text)
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(size) < 1 or max(size) > MAX_SIDE:
        raise argparse.ArgumentTypeError(
            f"got {shown(text)}, expected a positive integer or HEIGHTxWIDTH, of up to "
            f"{MAX_SIDE:,}"
        )
    return size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("model", help="a name out of `cnn-jax models`")
    parser.add_argument(
        "--input-size",
        type=input_size,
        metavar="SIZE",
        help="height and width, or HEIGHTxWIDTH; the model's own if not given",
    )
    parser.add_argument(
        "--num-classes",
        type=int,
        metavar="COUNT",
        help="the number of logits; the model's own if not given",
    )
    parser.add_argument(
        "--in-channels",
        type=int,
        metavar="COUNT",
        help="the number of channels of the images; the model's own if not given",
    )


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
    from cnn_jax.analysis.summary import summarize

    try:
        info = model_info(options.model)
        size = options.input_size or info.input_size
        model = create_model(
            options.model,
            num_classes=options.num_classes,
            in_channels=options.in_channels,
        )
        with working(f"tracing {options.model}"):
            summary = summarize(model, (*size, sized_for(model)[-1]))
    except ValueError as error:
        raise UsageError(str(error)) from error
    if options.json:
        print_json(summary.to_dict() | {"model": options.model})
        return 0
    columns = (
        Column("path", "Layer"),
        Column("type", "Type"),
        Column("output_shape", "Output"),
        Column("parameters", "Parameters", format_spec=",d"),
        Column("macs", "MACs", format_spec=",d"),
        Column("activation_bytes", "Activations", "bytes", ",d"),
    )
    rows = [
        {
            "path": layer.path,
            "type": layer.type,
            "output_shape": shape_text(layer.output_shape),
            "parameters": layer.parameters,
            "macs": layer.macs,
            "activation_bytes": layer.activation_bytes,
        }
        for layer in summary.layers
    ]
    rows.append(
        {
            "path": "total",
            "parameters": summary.parameters,
            "macs": summary.macs,
            "activation_bytes": summary.activation_bytes,
        }
    )
    title = f"{options.model} on {shape_text(summary.input_shape)}"
    notes = [
        f"{info.paper} ({info.year}), {info.url}",
        "MACs are the multiply-adds of one image, those on padding included; one MAC "
        "is two floating-point operations. Activations are the outputs for one image.",
    ]
    print_table(Table(title, columns, rows, notes))
    return 0
