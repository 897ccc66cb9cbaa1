"""`cnn-jax plan`."""

from __future__ import annotations

import argparse
from typing import Any

from cnn_jax.cli.usage import UsageError, number_in, print_json, print_text
from cnn_jax.planning.compiled import CACHE
from cnn_jax.ranges import MAX_SIDE, Whole

HELP = "Compile a training step for a TPU slice: does it fit, and how fast would it be?"

IMAGES_OF_A_DEVICE = 64
"""Images of a device, unless a batch is given."""


def scope(text: str) -> str | int:
    """Reads `global`, `device` or a number of devices."""
    return int(text) if text.isascii() and text.isdecimal() else text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.usage = (
        "%(prog)s MODEL --topology TOPOLOGY [--batch-size N] [options]\n"
        "                    [--max-batch | --search]"
    )
    parser.add_argument("model", metavar="MODEL", help="a name out of `cnn-jax models`")
    _add_step(parser.add_argument_group("the step"))
    _add_spread(
        parser.add_argument_group(
            "its devices", "With --search, an option of these may have several values."
        )
    )
    task = parser.add_mutually_exclusive_group()
    task.add_argument(
        "--max-batch",
        action="store_true",
        help="halve or double the batch until it fits and its double does not",
    )
    task.add_argument(
        "--search",
        action="store_true",
        help="compare plans: by default half, once and twice the batch, both scopes of "
        "batch normalisation, with and without --remat",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--html", metavar="FILE", help="write the plans as a page")
    files.add_argument(
        "--cache",
        default=CACHE,
        metavar="DIR",
        help="where what the compiler said is kept; `none` keeps nothing (default: "
        "%(default)s)",
    )


def _add_step(group: Any) -> None:
    add = group.add_argument
    add("--image-size", type=number_in(Whole(1, MAX_SIDE)), metavar="PIXELS")
    add("--num-classes", type=number_in(Whole(1, 2**20)), metavar="COUNT")
    add(
        *("--dtype", "--precision"),
        choices=("float32", "bfloat16", "float16"),
        default="bfloat16",
        help="of activations (default: bfloat16)",
    )
    add(
        "--optimizer",
        choices=("sgd", "adamw", "lamb", "lars", "rmsprop", "muon"),
        default="sgd",
        help="(default: sgd, with momentum)",
    )
    add(
        "--remat",
        action=argparse.BooleanOptionalAction,
        help="recompute what is inside the model's blocks in the backward pass",
    )


def _add_spread(group: Any) -> None:
    add = group.add_argument
    add(
        "--topology",
        nargs="+",
        required=True,
        metavar="NAME",
        help="the slice, such as v5e:2x4, v5e:16x16 or v4:8x8x16; cpu:8 for simulated "
        "devices, of which no cycles are known",
    )
    add(
        *("--batch-size", "--batch"),
        nargs="+",
        type=number_in(Whole(1, 2**24)),
        metavar="N",
        help="examples of a step, over all devices (default: "
        f"{IMAGES_OF_A_DEVICE} a device)",
    )
    add(
        "--batch-per-device",
        type=number_in(Whole(1, 2**24)),
        metavar="N",
        help="the same by the examples of each device, which follow its number",
    )
    add(
        "--parallel",
        nargs="+",
        choices=("jit", "shard_map"),
        default=["jit"],
        help="(default: jit)",
    )
    add(
        "--mesh",
        nargs="+",
        metavar="AXES",
        help="such as data=4,fsdp=2 (default: all devices on data)",
    )
    add(
        "--batch-norm-scope",
        nargs="+",
        type=scope,
        metavar="SCOPE",
        help="global, device, or a number of devices (default: global)",
    )
    add("--reduce-dtype", choices=("bfloat16",), help="of sums, with shard_map")


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
    from cnn_jax.planning.topology import prepare_environment

    prepare_environment()  # before anything asks jax for a device
    from cnn_jax.checkpoint import CheckpointError
    from cnn_jax.cli.plan_making import make_record
    from cnn_jax.files import write_output

    try:
        record = make_record(options)
        if options.html is not None:
            from cnn_jax.report.plan_page import render

            write_output(options.html, render(record))
    except (CheckpointError, ImportError, OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    if options.json:
        print_json(record)
    else:
        _print(record, options)
    return 0 if record["best"] is not None else 1


def _print(record: dict[str, Any], options: argparse.Namespace) -> None:
    from cnn_jax.report.plan_page import candidate_table, plan_tables
    from cnn_jax.report.table import print_table

    plans = record["plans"]
    tables = []
    if len(plans) > 1:
        tables.append(candidate_table(record))
    shown = plans[record["best"] or 0]
    tables += plan_tables(shown)
    for table in tables:
        print_table(table)
    if not shown["fits"] and shown["refusal"]:
        print_text(shown["refusal"].partition("\n")[0])
    if options.html is not None:
        print_text(f"page in {options.html}")
