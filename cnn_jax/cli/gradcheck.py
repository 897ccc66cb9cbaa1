"""`cnn-jax gradcheck`."""

from __future__ import annotations

import argparse
import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

from cnn_jax import kernels
from cnn_jax.cli.usage import (
    UsageError,
    listed,
    nearest,
    print_json,
    with_progress,
)
from cnn_jax.report.table import Column, Table, print_table
from cnn_jax.report.words import count

HELP = "Compare kernels and gradients with JAX's autodiff in float64."


def _check_kernels(names: Sequence[str]) -> list[dict[str, Any]]:
    """Compares kernels one by one, on the CPU: only it has float64 for sure."""
    import jax

    from cnn_jax.analysis.cases import CASES
    from cnn_jax.analysis.gradcheck import run_gradcheck

    num_cases = collections.Counter(case.kernel for case in CASES)
    try:
        cpu = jax.devices("cpu")[0]
    except RuntimeError as error:
        raise UsageError(
            "gradcheck needs JAX's CPU backend, for float64: unset JAX_PLATFORMS or "
            f"add cpu to it. ({error})"
        ) from error
    rows = []
    with jax.default_device(cpu), kernels.target_platform("cpu"):
        for name in with_progress({name: num_cases[name] for name in names}):
            rows += run_gradcheck({name: getattr(kernels, name)})
    return [dataclasses.asdict(row) for row in rows]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "--kernel",
        action="append",
        default=[],
        metavar="NAME",
        help="check only this kernel; may be given more than once",
    )


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
    from cnn_jax.analysis.cases import CASES

    names = list(dict.fromkeys(case.kernel for case in CASES))
    unknown = [name for name in options.kernel if name not in names]
    if unknown:
        raise UsageError(
            f"--kernel: got unknown name {unknown[0]!r}; "
            f"{nearest(unknown[0], names) or 'expected one of ' + listed(names)}"
        )
    chosen = [name for name in names if not options.kernel or name in options.kernel]
    rows = _check_kernels(chosen)
    failed = [row for row in rows if not row["passed"]]
    if options.json:
        print_json({"passed": not failed, "rows": rows})
        return 1 if failed else 0
    columns = (
        Column("kernel", "Kernel"),
        Column("argument", "Compared"),
        Column("num_cases", "Cases", format_spec=",d"),
        Column("worst_relative_error", "Worst error", "relative", ".1e"),
        Column("tolerance", "Tolerance", "relative", ".0e"),
        Column("result", "Result"),
    )
    texts = {True: "ok", False: "FAILED"}
    shown = [
        {column.key: row.get(column.key) for column in columns}
        | {"result": texts[row["passed"]]}
        for row in rows
    ]
    title = "Kernels and their gradients against jax.vjp of plain lax, float64"
    outcome = (
        f"{count(len(failed), 'comparison')} of {len(rows)} failed."
        if failed
        else f"All {len(rows)} comparisons agree."
    )
    print_table(Table(title, columns, shown, [outcome]))
    return 1 if failed else 0
