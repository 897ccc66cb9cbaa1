"""`cnn-jax doctor`."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import shutil
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cnn_jax.cli.summary import input_size
from cnn_jax.cli.usage import (
    UsageError,
    number_in,
    print_json,
    print_text,
    shape_text,
    working,
)
from cnn_jax.messages import printable, progress, warn
from cnn_jax.models import create_model, model_info
from cnn_jax.ranges import Real, Whole
from cnn_jax.report.words import count

if TYPE_CHECKING:  # packages that take seconds to import
    from cnn_jax.doctor import Finding
    from cnn_jax.doctor.numerics import Comparison

HELP = "Check this host before a run: versions, devices, processes, directories."

_NUMERICS = ("image_size", "batch_size", "seed")
_VERDICT_WIDTH = len("warning")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "--numerics",
        metavar="MODEL",
        help="instead of the host, check the numbers of a training step of this model "
        "out of `cnn-jax models`, layer by layer against float64",
    )
    parser.add_argument(
        "--image-size",
        type=input_size,
        metavar="SIZE",
        help="with --numerics: height and width, or HEIGHTxWIDTH; the model's own if "
        "not given",
    )
    parser.add_argument(
        "--batch-size",
        type=number_in(Whole(1, 2**16)),
        metavar="COUNT",
        help="with --numerics: the number of images (default: 4)",
    )
    parser.add_argument(
        "--seed",
        type=number_in(Whole(0, 2**31)),
        metavar="NUMBER",
        help="with --numerics: of what is drawn (default: 0)",
    )
    _add_places(parser)


def _add_places(parser: argparse.ArgumentParser) -> None:
    """Adds the options of directories, data and processes."""
    parser.add_argument(
        "--data-dir", metavar="PATH", help="the directory of prepared sets to look at"
    )
    parser.add_argument(
        *("--dataset", "--data"),
        metavar="NAME",
        help="the data set to read examples of: folder:PATH, or a prepared set's name",
    )
    parser.add_argument(
        "--split", metavar="NAME", help="the split of --dataset (default: train)"
    )
    parser.add_argument(
        "--checkpoint-dir",
        metavar="PATH",
        help="where checkpoints are to be kept, a directory or gs://...",
    )
    parser.add_argument("--run-dir", metavar="PATH", help="where a run is to be kept")
    parser.add_argument(
        "--coordinator-address",
        metavar="HOST:PORT",
        help="of process 0, or `auto` on Cloud TPU, GKE and Slurm: check a group of "
        "processes; start doctor in all of them at the same time",
    )
    parser.add_argument(
        "--num-processes",
        type=number_in(Whole(1, 2**20)),
        metavar="COUNT",
        help="how many processes there are to be",
    )
    parser.add_argument(
        "--process-id",
        type=number_in(Whole(0, 2**20)),
        metavar="NUMBER",
        help="the number of this one, from 0",
    )
    parser.add_argument(
        "--timeout",
        type=number_in(Real(1, 3600)),
        metavar="SECONDS",
        help="how long each check may take (default: 120)",
    )


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
    if options.numerics is not None:
        return _run_numerics(options)
    given = [name for name in _NUMERICS if getattr(options, name) is not None]
    if given:
        raise UsageError(
            f"--{given[0].replace('_', '-')}: expected with --numerics MODEL alone."
        )
    return _run_checks(options)


def _run_checks(options: argparse.Namespace) -> int:
    from cnn_jax.doctor import Examination, examine

    if options.split is not None and options.dataset is None:
        raise UsageError("--split: expected with --dataset NAME alone.")
    try:
        wanted = Examination(
            data_dir=options.data_dir,
            dataset=options.dataset,
            split=options.split or "train",
            checkpoint_dir=options.checkpoint_dir,
            run_dir=options.run_dir,
            coordinator_address=options.coordinator_address,
            num_processes=options.num_processes,
            process_id=options.process_id,
            seconds=120.0 if options.timeout is None else options.timeout,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    findings: list[Finding] = []
    # Each is printed as it is found; what takes long comes last.
    with working("checking"):
        for finding in examine(wanted):
            findings.append(finding)
            if not options.json:
                _print_finding(finding)
    numbers = collections.Counter(each.verdict for each in findings)
    passed = not numbers["fault"]
    if options.json:
        print_json(
            {"passed": passed, "findings": [dataclasses.asdict(f) for f in findings]}
        )
    else:
        print_text(
            f"\n{count(len(findings), 'check')}: {numbers['ok']} ok, "
            f"{count(numbers['warning'], 'warning')}, "
            f"{count(numbers['fault'], 'fault')}."
        )
    return 0 if passed else 1


def _print_finding(finding: Finding) -> None:
    width = max(shutil.get_terminal_size().columns, 40)
    indent = " " * (_VERDICT_WIDTH + 2)
    text = f"{finding.name}: {finding.sentence}"
    if finding.remedy:
        text += f" -> {finding.remedy}"
    lines = textwrap.wrap(
        printable(" ".join(text.split())),
        width,
        initial_indent=f"{finding.verdict:{_VERDICT_WIDTH}}  ",
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    print_text("\n".join(lines))


def _run_numerics(options: argparse.Namespace) -> int:
    from cnn_jax.doctor.numerics import check_numerics, first_of

    others = ("data_dir", "dataset", "split", "checkpoint_dir", "run_dir")
    group = ("coordinator_address", "num_processes", "process_id")
    for name in (*others, *group, "timeout"):
        if getattr(options, name) is not None:
            raise UsageError(
                f"--{name.replace('_', '-')}: expected without --numerics, which "
                "checks one model and nothing else."
            )
    try:
        info = model_info(options.numerics)
        size = options.image_size or info.input_size
        shape = (*size, info.input_shape[-1])
        with progress(transient=True) as bar:
            task = bar.add_task("", total=None)

            def say(text: str) -> None:
                bar.update(task, description=printable(text))
                if bar.disable:
                    warn(text)

            comparisons = check_numerics(
                lambda dtype: create_model(
                    options.numerics, dtype=dtype, param_dtype=dtype
                ),
                shape,
                batch_size=options.batch_size or 4,
                seed=options.seed or 0,
                each=say,
            )
    except ValueError as error:
        raise UsageError(str(error)) from error
    first = first_of(comparisons)
    if options.json:
        print_json(
            {
                "passed": first is None,
                "first": None if first is None else dataclasses.asdict(first),
                "comparisons": [dataclasses.asdict(each) for each in comparisons],
            }
        )
    else:
        _print_comparisons(options.numerics, shape, comparisons, first)
    return 0 if first is None else 1


def _print_comparisons(
    model: str,
    shape: Sequence[int],
    comparisons: Sequence[Comparison],
    first: Comparison | None,
) -> None:
    from cnn_jax.report.table import Column, Table, print_table

    columns = (
        Column("way", "Computed by"),
        Column("num_arrays", "Arrays", format_spec=",d"),
        Column("worst", "Worst error", "of tolerance", ".2g"),
        Column("layer", "First that differs"),
    )
    rows: list[dict[str, Any]] = [
        {
            "way": each.way,
            "num_arrays": each.num_arrays,
            "worst": each.worst,
            "layer": None
            if each.difference is None
            else f"{each.difference.layer}: {each.difference.array}",
        }
        for each in comparisons
    ]
    note = "Every layer's result and gradient is right to rounding."
    if first is not None and first.difference is not None:
        found = first.difference
        note = (
            f"{first.way}: {found.layer} is the first that differs from float64: its "
            f"{found.array} by {found.error:.1e} of its size, where rounding explains "
            f"{found.tolerance:.1e}."
        )
    title = f"A training step of {model} on {shape_text(shape)} against float64"
    legend = (
        "Unrecorded is the program that training runs; in the others each layer's "
        "result is kept, which changes what the compiler fuses."
    )
    print_table(Table(title, columns, rows, [note, legend]))
