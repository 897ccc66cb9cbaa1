"""Plans of training steps as tables and as a page, from their JSON form."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from cnn_jax.report import html, plots
from cnn_jax.report.statistics import SINGLE, Interval
from cnn_jax.report.table import Column, Table, table_of

Record = Mapping[str, Any]
"""The JSON form of `cnn_jax.planning.plan.Plan`."""

GIBIBYTE = 2**-30

ESTIMATE = (
    "Estimates of the compiler, not measurements: nothing was run. Numbers are of one "
    "device and one step."
)

PARTS = {
    "parameters": "what is trained",
    "optimizer": "the optimizer's moments and counters",
    "batch_statistics": "running statistics of batch normalisation",
    "averages": "moving averages of parameters and statistics",
    "batch": "a device's share of the images and labels",
    "padding": "what layouts add to these, and small results",
    "activations": "arrays that the forward pass leaves for the backward pass",
    "temporaries": "all other arrays of the step, at their peak",
    "code": "the program itself",
    "total": "all of it",
    "available": "the device's memory",
}
"""The parts of a device's memory, and what they are."""

NO_CHART = (
    "The chart needs matplotlib, which was not installed when this page was written: "
    "pip install 'cnn_jax[report]', then write it again."
)


def memory_table(plan: Record) -> Table:
    """Returns the parts of a device's memory, one a row."""
    available = plan["memory"]["available"]
    rows = [
        {
            "part": name.replace("_", " "),
            "bytes": plan["memory"].get(name),
            "share": _ratio(plan["memory"].get(name), available),
            "what": what,
        }
        for name, what in PARTS.items()
    ]
    columns = (
        Column("part", "Memory"),
        Column("bytes", "Size", "GiB", ",.3f", GIBIBYTE),
        Column("share", "Of the device", "%", ".1f", 100),
        Column("what", "What it is"),
    )
    return Table(_title(plan), columns, rows, [verdict(plan)])


def verdict(plan: Record) -> str:
    """Returns whether a plan fits, as a sentence."""
    memory = plan["memory"]
    total, available = memory["total"], memory["available"]
    if not plan["fits"]:
        needed = "more" if total is None else f"{total * GIBIBYTE:,.2f} GiB"
        limit = "" if available is None else f" of {available * GIBIBYTE:,.2f} GiB"
        return f"Does not fit: the step needs {needed}{limit} a device."
    if available is None or total is None:
        return "Compiled; how much memory a device has is not known."
    return f"Fits: {total * GIBIBYTE:,.2f} of {available * GIBIBYTE:,.2f} GiB a device."


def images(plan: Record) -> str:
    """Returns the images of a device as text: a part of one where devices share it."""
    number = plan["settings"]["batch_size"] / plan["devices"]["count"]
    return f"{number:,.0f}" if number.is_integer() else f"{number:.3g}"


def step_table(plan: Record) -> Table:
    """Returns arithmetic, traffic, cycles and speed of a step, one a row."""
    roof, speed = plan["roofline"], plan["speed"]
    rows = [
        ("FLOPs", plan["flops"], 1e-12, "TFLOP", "two for a multiply-add"),
        ("bytes", plan["bytes"], 1e-9, "GB", "read and written by instructions"),
        ("cycles", plan["cycles"], 1e-6, "M", "sum of the compiler's estimates"),
        ("intensity", roof["intensity"], 1, "FLOP/byte", _bound(roof)),
        ("ridge", roof["ridge"], 1, "FLOP/byte", "the chip's peak by its bandwidth"),
        ("compute", roof["compute_seconds"], 1e3, "ms", "FLOPs at the chip's peak"),
        ("traffic", roof["memory_seconds"], 1e3, "ms", "bytes at its bandwidth"),
        ("exchange", speed["collective_seconds"], 1e3, "ms", "all collectives, alone"),
        ("step", speed["step_seconds"], 1e3, "ms", "cycles at its clock, + exchange"),
        ("speed", speed["images_per_second"], 1, "images/s", "estimate, all devices"),
        ("MFU", speed["mfu"], 100, "%", "estimate, of 6 FLOPs a multiply-add"),
        ("exchange, share", speed["collective_share"], 100, "%", "of the step's time"),
    ]
    notes, unknown = [ESTIMATE], plan["without_estimate"]
    if unknown:
        notes += [f"{unknown} instructions have no estimate: the cycles are too few."]
    columns = (
        Column("name", "Step"),
        Column("value", "Estimate"),
        Column("unit", "Unit"),
        Column("what", "What it is"),
    )
    return Table(
        "A step of one device",
        columns,
        [
            {"name": name, "value": _figures(value, scale), "unit": unit, "what": what}
            for name, value, scale, unit, what in rows
        ],
        notes,
    )


def expensive_table(plan: Record) -> Table:
    """Returns the most expensive instructions."""
    rows = [
        {**row, "share": _ratio(row["cycles"], plan["cycles"])}
        for row in plan["expensive"]
    ]
    columns = (
        Column("layer", "Layer"),
        Column("part", "Pass"),
        Column("operation", "Operation"),
        Column("cycles", "Cycles", "k", ",.1f", 1e-3),
        Column("share", "Share", "%", ".1f", 100),
        Column("result", "Result"),
        Column("name", "Instruction"),
    )
    kept = [
        {column.key: _short(row.get(column.key)) for column in columns} for row in rows
    ]
    return Table("The most expensive instructions", columns, kept)


def layer_table(plan: Record, *, depth: int | None = 1) -> Table:
    """Returns cycles by layer and pass, with their sum in the last row.

    Args:
      plan: The plan.
      depth: How many names of a layer's path count; None for all.
    """
    names = ("forward", "backward", "update", "cycles", "count")
    groups: dict[str, dict[str, Any]] = {}
    for row in plan["layers"]:
        path = "/".join(row["layer"].split("/")[:depth])
        group = groups.setdefault(path, {"layer": path, **dict.fromkeys(names, 0)})
        for name in names:
            group[name] += row[name]
    rows = list(groups.values())
    total = {"layer": "total", **{n: sum(row[n] for row in rows) for n in names}}
    for row in (*rows, total):
        row["share"] = _ratio(row["cycles"], plan["cycles"])
    columns = (
        Column("layer", "Layer"),
        *(
            Column(name, name.capitalize(), "k cycles", ",.1f", 1e-3)
            for name in names[:4]
        ),
        Column("share", "Share", "%", ".1f", 100),
        Column("count", "Instructions", format_spec=",d"),
    )
    return Table("Cycles by layer", columns, [*rows, total])


def collective_table(plan: Record) -> Table:
    """Returns the messages between devices, a kind and axis a row."""
    columns = (
        Column("kind", "Collective"),
        Column("axes", "Mesh axis"),
        Column("group_size", "Devices", format_spec=",d"),
        Column("count", "Number", format_spec=",d"),
        Column("payload_bytes", "Payload", "MB", ",.3f", 1e-6),
        Column("sent_bytes", "Sent", "MB", ",.3f", 1e-6),
        Column("seconds", "Time", "ms", ",.3f", 1e3),
    )
    return Table("Messages between devices", columns, plan["collectives"])


def candidate_table(record: Record) -> Table:
    """Returns the plans of a search, one a row, the winner named below."""
    rows = [_candidate(n, plan) for n, plan in enumerate(record["plans"], start=1)]
    for index in record.get("frontier") or ():
        rows[index]["frontier"] = "yes"
    columns = (
        Column("number", "No."),
        Column("topology", "Topology"),
        Column("batch_size", "Batch", format_spec=",d"),
        Column("parallel", "Parallel"),
        Column("mesh", "Mesh"),
        Column("scope", "Batch norm"),
        Column("remat", "Remat"),
        Column("fits", "Fits"),
        Column("memory", "Memory", "GiB", ",.2f", GIBIBYTE),
        Column("cycles", "Cycles", "k/image", ",.1f", 1e-3, "lowest"),
        Column("exchange", "Exchange", "%", ".1f", 100),
        Column("speed", "Speed", "images/s", ",.0f"),
        Column("mfu", "MFU", "%", ".1f", 100),
        Column("frontier", "Pareto"),
    )
    notes = [*record.get("left_out", ()), *record.get("conclusions", ()), ESTIMATE]
    return table_of(f"Plans of {record['model']}", columns, rows, notes=notes)


def plan_tables(plan: Record) -> list[Table]:
    """Returns all tables of one plan that have a row."""
    tables = [memory_table(plan)]
    if plan["flops"] is not None:
        tables.append(step_table(plan))
    if plan["expensive"]:
        tables += [expensive_table(plan), layer_table(plan)]
    if plan["collectives"]:
        tables.append(collective_table(plan))
    return tables


def render(record: Record) -> str:
    """Returns the page of a command's plans: one document that loads nothing.

    Args:
      record: What `cnn-jax plan --json` prints.
    """
    plans, sections = record["plans"], []
    if len(plans) > 1:
        sections.append(
            html.Section("Plans", [candidate_table(record), *_chart_blocks(record)])
        )
    shown = plans[record["best"] or 0]
    sections.append(html.Section(_title(shown), plan_tables(shown)))
    if shown["layers"]:
        every = html.Details("Every layer", [layer_table(shown, depth=None)])
        sections[-1] = html.Section(_title(shown), [*plan_tables(shown), every])
    facts = {**record["environment"], "Compiler": _versions(shown)}
    sections.append(
        html.Section(
            "How it was made", [html.Code(record["command"]), html.Facts(facts)]
        )
    )
    summary = " ".join([*record.get("conclusions", ()), verdict(shown), ESTIMATE])
    title = f"Plan of {record['model']}"
    return html.render_page(title, summary, sections, kicker="cnn_jax, planning")


def _chart_blocks(record: Record) -> list[Any]:
    known = [
        (number, plan)
        for number, plan in enumerate(record["plans"], start=1)
        if plan["fits"] and plan["cycles"] is not None
    ]
    if not known:
        return []
    if importlib.util.find_spec("matplotlib") is None:
        return [html.Paragraph(NO_CHART)]
    frontier = record.get("frontier") or ()
    points = []
    for number, plan in known:
        value = (_cycles_per_image(plan) or 0) / 1e3
        points.append(
            plots.Point(
                label=str(number),
                x=plan["memory"]["total"],
                value=Interval(value, value, value, SINGLE, 1),
                style=0 if number - 1 in frontier else 1,
            )
        )
    title = "Cycles of an image against memory"
    caption = (
        "A point is a plan of the table, by its number. Further down is faster, "
        "further to the left smaller; no plan is both than one of the first colour, "
        "the Pareto frontier."
    )
    svg = plots.scatter_chart(
        points,
        title=title,
        description=caption,
        x_label="memory of a device (bytes)",
        y_label="cycles of a device for an image (thousands)",
        x_unit="B",
    )
    return [html.Chart(svg, title, caption)]


def _candidate(number: int, plan: Record) -> dict[str, Any]:
    settings = plan["settings"]
    return {
        "number": str(number),
        "topology": settings["topology"],
        "batch_size": settings["batch_size"],
        "parallel": settings["parallel"],
        "mesh": settings["mesh"],
        "scope": str(settings["batch_norm_scope"]),
        "remat": "yes" if settings["remat"] else "no",
        "fits": "yes" if plan["fits"] else "no",
        "memory": plan["memory"]["total"],
        "cycles": _cycles_per_image(plan),
        "exchange": plan["speed"]["collective_share"],
        "speed": plan["speed"]["images_per_second"],
        "mfu": plan["speed"]["mfu"],
    }


def _cycles_per_image(plan: Record) -> float | None:
    cycles, count = plan["cycles"], plan["devices"]["count"]
    return None if cycles is None else cycles * count / plan["settings"]["batch_size"]


def _title(plan: Record) -> str:
    settings, devices = plan["settings"], plan["devices"]
    remat = ", recomputed blocks" if settings["remat"] else ""
    return (
        f"{settings['model']} on {settings['topology']} ({devices['count']} devices), "
        f"batch {settings['batch_size']:,} ({images(plan)} a device), "
        f"{settings['dtype']}{remat}"
    )


def _figures(value: float | None, scale: float) -> str | None:
    """Returns a number with the digits that an estimate is worth."""
    if value is None:
        return None
    scaled = value * scale
    return f"{scaled:,.0f}" if abs(scaled) >= 1000 else f"{scaled:.4g}"


def _bound(roofline: Record) -> str:
    bound = roofline["bound"]
    return "FLOPs by bytes" + ("" if bound is None else f": bound by {bound}")


def _versions(plan: Record) -> str:
    names = ("jax", "jaxlib", "libtpu")
    return ", ".join(
        f"{name} {plan['compiler'][name]}" for name in names if name in plan["compiler"]
    )


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _short(value: Any, most: int = 44) -> Any:
    if isinstance(value, str) and len(value) > most:
        return value[: most - 3] + "..."
    return value
