"""`cnn-jax export`."""

from __future__ import annotations

import argparse

from cnn_jax.cli.usage import (
    WEIGHTS,
    UsageError,
    add_model,
    print_json,
    print_text,
    shape_text,
    working,
)

HELP = "Write a network as StableHLO or ONNX, for programs without this package."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "weights",
        metavar="WEIGHTS",
        help=WEIGHTS,
    )
    parser.add_argument(
        "destination",
        metavar="OUT",
        help="the file to write; another export is replaced, any other file is not",
    )
    parser.add_argument(
        "--format",
        required=True,
        choices=("stablehlo", "onnx"),
        help="stablehlo for JAX (cnn_jax.load_exported) and XLA, onnx for its runtimes",
    )
    add_model(parser)
    parser.add_argument(
        "--num-classes",
        type=int,
        metavar="COUNT",
        help="the number of classes, if neither WEIGHTS nor the model says it",
    )
    parser.add_argument(
        "--normalized",
        action="store_true",
        help="take normalised images in float32 as the input; without it, the file "
        "takes pixels in uint8 and normalises them itself",
    )


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
    from cnn_jax.checkpoint import CheckpointError
    from cnn_jax.export.exporting import export

    try:
        with working(f"exporting {options.weights}"):
            written = export(
                options.weights,
                options.destination,
                format=options.format,
                model=options.model,
                num_classes=options.num_classes,
                normalized=options.normalized,
            )
    except (CheckpointError, ImportError, OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    if options.json:
        print_json(written)
        return 0
    recipe = written["preprocessing"]
    shape = (recipe["size"], recipe["size"], recipe["channels"])
    names = written["class_names"]
    print_text(f"{written['model']}, {written['num_classes']} classes")
    print_text(f"input: {written['input']}, images of {shape_text(shape)}")
    print_text(f"output: {written['output']}")
    print_text(
        f"class names: {'unknown' if names is None else ', '.join(names[:3])}"
        + (", ..." if names and len(names) > 3 else "")
    )
    print_text(f"checked by {' and '.join(written['checked_by'])}")
    print_text(f"written to {written['destination']}, {written['bytes']:,} bytes")
    return 0
