"""The tables of the kernel benchmark, made of its results."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from kernel_suite import DEPTHWISE, GROUPED

from cnn_jax.report.table import Column, Table, table_of

POOLED_GROUPS = (DEPTHWISE, GROUPED)
"""Groups that also count as one, over all passes."""

MILLISECONDS = {"unit": "ms", "format_spec": ".2f", "scale": 1e3}
MEBIBYTES = {"unit": "MiB", "format_spec": ".2f", "scale": 2**-20}

CASE_COLUMNS = (
    Column("network", "network"),
    Column("kernel", "kernel"),
    Column("label", "layer"),
    Column("pass", "pass"),
)
MEASURED_COLUMNS = (
    *CASE_COLUMNS,
    Column("ours_seconds", "ours", **MILLISECONDS),
    Column("autodiff_seconds", "autodiff", **MILLISECONDS),
    Column("torch_seconds", "PyTorch", **MILLISECONDS),
    Column(
        "ratio",
        "autodiff / ours",
        format_spec=".2f",
        note="1.00 where both compile to the same program.",
    ),
    Column("ours_residuals", "residuals", **MEBIBYTES),
    Column("autodiff_residuals", "of autodiff", **MEBIBYTES),
    Column("ours_temporaries", "temporaries", **MEBIBYTES),
    Column("autodiff_temporaries", "of autodiff's", **MEBIBYTES),
    Column("error", "largest relative error", format_spec=".1e"),
)
ESTIMATED_COLUMNS = (
    *CASE_COLUMNS,
    Column("ours_cycles", "cycles", unit="M", format_spec=".3f", scale=1e-6),
    Column("autodiff_cycles", "of autodiff", unit="M", format_spec=".3f", scale=1e-6),
    Column("ratio", "autodiff / ours", format_spec=".2f"),
    Column("ours_bytes", "bytes", **MEBIBYTES),
    Column("autodiff_bytes", "of autodiff's", **MEBIBYTES),
    Column("ours_temporaries", "temporaries", **MEBIBYTES),
    Column("autodiff_temporaries", "autodiff's", **MEBIBYTES),
)
GROUP_COLUMNS = (
    Column("group", "group"),
    Column("pass", "pass"),
    Column("layers", "layers", format_spec="d"),
    Column("ratio", "autodiff / ours", format_spec=".2f"),
    Column("least", "least", format_spec=".2f"),
    Column("torch_ratio", "PyTorch / ours", format_spec=".2f"),
)
COMPARED = {"ratio": "mean", "least": "lowest", "torch_ratio": "PyTorch"}
"""Columns of `GROUP_COLUMNS` that several runs are compared in, and their headers."""


def layer_table(results: Sequence[dict]) -> Table:
    """Returns the table with one row for each layer and pass."""
    is_measured = any("ours_seconds" in result for result in results)
    columns = MEASURED_COLUMNS if is_measured else ESTIMATED_COLUMNS
    return table_of("Layer by layer", columns, results)


def grouped(results: Sequence[dict]) -> dict[tuple[str, str], list[dict]]:
    """Returns (group, pass) -> its results; POOLED_GROUPS together, too."""
    groups: dict[tuple[str, str], list[dict]] = {}
    results = [result for result in results if result["ratio"] is not None]
    for result in results:
        groups.setdefault((result["group"], result["pass"]), []).append(result)
    together = [result for result in results if result["group"] in POOLED_GROUPS]
    if together:
        groups[" and ".join(POOLED_GROUPS), "all three"] = together
    return groups


def group_table(results: Sequence[dict]) -> Table:
    """Returns the table of geometric means over each group and pass."""
    rows = []
    for (group, name), members in grouped(results).items():
        ratios = [member["ratio"] for member in members]
        beside_torch = [
            member["torch_seconds"] / member["ours_seconds"]
            for member in members
            if "torch_seconds" in member
        ]
        rows.append(
            {
                "group": group,
                "pass": name,
                "layers": _num_layers(members),
                "ratio": statistics.geometric_mean(ratios),
                "least": min(ratios),
                "torch_ratio": statistics.geometric_mean(beside_torch)
                if beside_torch
                else None,
            }
        )
    return table_of(
        "Geometric means over the layers of a group",
        GROUP_COLUMNS,
        rows,
        notes=("A ratio above 1 is in our favour; least is that of the worst layer.",),
    )


def comparison_table(reports: Sequence[dict]) -> Table:
    """Returns the geometric means of several runs side by side.

    Args:
      reports: What runs wrote with `--json`, each with other versions or another dtype.
    """
    columns = list(GROUP_COLUMNS[:3])
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for number, report in enumerate(reports):
        version = report["environment"]["versions"]["jax"]
        columns += [
            Column(
                f"{key} {number}",
                f"jax {version}, {report['dtype']}: {header}",
                format_spec=".2f",
            )
            for key, header in COMPARED.items()
        ]
        for found in group_table(report["records"]).rows:
            row = rows.setdefault(
                (found["group"], found["pass"]),
                {name: found[name] for name in ("group", "pass", "layers")},
            )
            for key in COMPARED:
                row[f"{key} {number}"] = found.get(key)
    return table_of(
        "How many times faster than autodiff of lax",
        columns,
        list(rows.values()),
        notes=(
            "mean: autodiff's time over ours, the geometric mean over the layers of "
            "the group; 2.00 is twice as fast, 0.50 half as fast.",
            "lowest: the same ratio of the layer where it is lowest.",
            "PyTorch: PyTorch's time over ours, the geometric mean; below 1.00 "
            "PyTorch is faster.",
        ),
    )


def _num_layers(results: Sequence[dict]) -> int:
    return len({result["layer"] for result in results})
