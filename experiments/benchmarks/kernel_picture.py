"""Draws how fast the kernels are beside autodiff, from committed measurements.

    python experiments/benchmarks/kernel_picture.py

Writes `docs/pictures/kernel_speed.svg` from `experiments/results/`: for each group of
layers and each pass, the geometric mean of autodiff's time over ours. Convolutions have
a bar for the output and one for each gradient, all other groups one for the output and
one for output and gradients in one program. Needs no matplotlib: the picture is text.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from kernel_tables import group_table

from cnn_jax.report.plots import COLORS, FAINT, INK

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results" / "kernels_cpu_jax_0.12.json"
PICTURE = ROOT / "docs" / "pictures" / "kernel_speed.svg"

PASSES = {
    "forward": ("forward", COLORS[6]),
    "dx": ("gradient of the input", COLORS[0]),
    "dw": ("gradient of the filter", COLORS[1]),
    "both": ("forward and backward", COLORS[2]),
}
"""Of each pass that is drawn: its name in the legend, and its colour."""

LEFT_OUT = "other"
"""Dense layers, dropout, losses and others, too few of each for a mean."""

WIDTH, LEFT, RIGHT, TOP = 652, 244, 58, 146
BAR, BAR_GAP, GROUP_GAP = 14, 2, 12
LOWEST, HIGHEST = 0.8, 100
TICKS = (1, 2, 5, 10, 20, 50, 100)


def draw(report: Mapping[str, Any]) -> str:
    """Returns the picture of one run of the benchmark as SVG."""
    groups = _groups(group_table(report["records"]).rows)
    num_bars = sum(map(len, groups.values()))
    height = TOP + num_bars * (BAR + BAR_GAP) + len(groups) * GROUP_GAP + 34
    version = report["environment"]["versions"]["jax"]
    layers = len(
        {record["layer"] for record in report["records"] if record["group"] in groups}
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, '
        f'sans-serif" font-size="17" fill="{INK}">',
        "<title>How many times as fast as autodiff the kernels are</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="16" y="30" font-size="20" font-weight="600">'
        "How many times as fast as JAX's autodiff</text>",
        f'<text x="16" y="55">{layers} layers, float32, two CPU cores, jax '
        f"{escape(version)}, logarithmic axis</text>",
        *_legend(),
        *_axis(height),
    ]
    y = TOP
    for group, bars in groups.items():
        middle = y + len(bars) * (BAR + BAR_GAP) / 2 + 5
        parts.append(
            f'<text x="{LEFT - 14}" y="{middle:.1f}" text-anchor="end">'
            f"{escape(group)}</text>"
        )
        for name, ratio in bars.items():
            parts += _bar(y, ratio, PASSES[name][1])
            y += BAR + BAR_GAP
        y += GROUP_GAP
    return "\n".join([*parts, "</svg>"]) + "\n"


def _groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns group -> pass -> ratio, of what is drawn."""
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["pass"] in PASSES and row["group"] != LEFT_OUT:
            groups.setdefault(row["group"], {})[row["pass"]] = row["ratio"]
    return groups


def _x(ratio: float) -> float:
    """Returns where a ratio is on the logarithmic axis."""
    share = math.log(ratio / LOWEST) / math.log(HIGHEST / LOWEST)
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _bar(y: float, ratio: float, color: str) -> list[str]:
    start, end = sorted((_x(1), _x(ratio)))
    return [
        f'<rect x="{start:.1f}" y="{y}" width="{max(end - start, 2):.1f}" '
        f'height="{BAR}" fill="{color}"/>',
        f'<text x="{max(end, _x(1)) + 6:.1f}" y="{y + BAR - 1.5}" font-size="15">'
        f"{ratio:.{1 if ratio >= 10 else 2}f}</text>",
    ]


def _legend() -> list[str]:
    """Returns the names of the passes, in two rows of two."""
    parts = []
    for place, (label, color) in enumerate(PASSES.values()):
        x, y = 16 + 250 * (place // 2), 70 + 26 * (place % 2)
        parts.append(f'<rect x="{x}" y="{y}" width="14" height="14" fill="{color}"/>')
        parts.append(f'<text x="{x + 22}" y="{y + 13}">{label}</text>')
    return parts


def _axis(height: int) -> list[str]:
    bottom = height - 34
    parts = []
    for tick in TICKS:
        x = _x(tick)
        color, width = (INK, 1.5) if tick == 1 else (FAINT, 1)
        parts.append(
            f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{bottom}" '
            f'stroke="{color}" stroke-width="{width}"/>'
        )
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{tick}</text>'
        )
    return parts


def main() -> None:
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(draw(json.loads(RESULTS.read_text())), encoding="utf-8")


if __name__ == "__main__":
    main()
