"""Blocks of networks as drawings: boxes, arrows and shortcuts, from their traced steps.

A drawing runs from top to bottom, with its shortcuts on the right.
"""

from __future__ import annotations

import html
import re

from layout import (
    BARS,
    CIRCLES,
    DETAIL_SIZE,
    GAP,
    LANE_GAP,
    LINE_HEIGHT,
    RADIUS,
    Box,
    Edge,
    merge,
    place,
    sizes,
)
from traced import trace

COLOURS = {
    "conv": ("#dbe7f6", "#2f6db5"),
    "pointwise": ("#d9efe9", "#1c7f6b"),
    "depthwise": ("#fde6cf", "#c2691a"),
    "grouped": ("#eadff3", "#7a4aa3"),
    "dense": ("#ece7df", "#7d6a4f"),
    "pool": ("#eceff2", "#66727f"),
    "gate": ("#f8dde4", "#b13a5e"),
    "norm": ("#ffffff", "#8793a0"),
    "activation": ("#ffffff", "#8793a0"),
    "split": ("#ffffff", "#66727f"),
    "shuffle": ("#ffffff", "#66727f"),
    "concat": ("#33404d", "#33404d"),
    "input": ("#ffffff", "#33404d"),
}
"""Kind of a step -> fill and outline."""

SMALLEST_TEXT = 14
WIDEST, HIGHEST, LARGEST = 560, 500, 1.2
"""Pixels that a slide has for a drawing, and the most that one is magnified."""


def draw_block(
    name: str,
    scopes: str,
    *,
    pre_activation: bool = False,
    open_gates: bool = False,
    widest: int = WIDEST,
) -> str:
    """Returns a part of a network as SVG.

    Args:
      name: The network's name.
      scopes: A regular expression; drawn are the steps from the first whose scope it
        matches to the last.
      pre_activation: Whether normalisations and activations belong to the layer after
        them, not to that before.
      open_gates: Whether squeeze-and-excite gates are drawn as their operations.
      widest: The pixels that there are for its width.

    Raises:
      ValueError: If no step matches, or the drawing's text would become too small.
    """
    steps = trace(name, open_gates=open_gates)
    matching = [i for i, step in enumerate(steps) if re.search(scopes, step.scope)]
    if not matching:
        raise ValueError(f"{name}: got {scopes!r}, which no step's scope matches.")
    chosen = range(matching[0], matching[-1] + 1)
    boxes = merge(steps, chosen, pre_activation)
    edges = place(boxes)
    return _render(boxes, edges, steps[chosen[-1]].shape, widest)


def _render(
    boxes: list[Box], edges: list[Edge], shape: tuple[int, ...], widest: int
) -> str:
    lanes = 1 + max([box.lane for box in boxes] + [edge.lane for edge in edges])
    spans = _bar_spans(boxes, edges)
    ends = _lane_edges(boxes, spans, lanes)
    xs = [(left + right) / 2 for left, right in ends]
    rows = 1 + max(box.row for box in boxes)
    heights = [
        max(box.height for box in boxes if box.row == row) for row in range(rows)
    ]
    tops = [1 + sum(heights[:row]) + GAP * row for row in range(rows)]
    middles = [tops[box.row] + heights[box.row] / 2 for box in boxes]
    parts = [_arrow(edge, boxes, middles, xs, spans) for edge in edges]
    for box, middle, span in zip(boxes, middles, spans, strict=True):
        bar = (ends[span[0]][0], ends[span[1]][1]) if span else None
        parts.append(_box(box, middle, xs[box.lane], bar))
    last = boxes[-1]
    bottom = middles[-1] + last.height / 2
    x, text = xs[last.lane], f"output: {sizes(shape)}"
    parts.append(_line([(x, bottom), (x, bottom + GAP - 4)]))
    parts.append(
        f'<text x="{x:.0f}" y="{bottom + GAP + 13:.0f}" class="d">{text}</text>'
    )
    left = min(0.0, x - len(text) * DETAIL_SIZE * 0.27)
    width = max(ends[-1][1] + 4, x + len(text) * DETAIL_SIZE * 0.27)
    return _svg(left, width - left, bottom + GAP + 20, "".join(parts), widest)


def _svg(left: float, width: float, height: float, body: str, widest: int) -> str:
    scale = min(LARGEST, widest / width, HIGHEST / height)
    if scale * DETAIL_SIZE < SMALLEST_TEXT:
        raise ValueError(
            f"drawing: got {width:.0f} x {height:.0f} pixels, expected at most "
            f"{widest} x {HIGHEST} or slightly more; choose fewer steps."
        )
    return (
        f'<svg class="block" viewBox="{left:.0f} 0 {width:.0f} {height:.0f}" '
        f'width="{scale * width:.1f}" height="{scale * height:.1f}" '
        f'role="img">{body}</svg>'
    )


def _lane_edges(
    boxes: list[Box], spans: list[tuple[int, int] | None], lanes: int
) -> list[tuple[float, float]]:
    """Returns the left and right end of every lane."""
    widths = [44.0] * lanes
    for box, span in zip(boxes, spans, strict=True):
        if span is None or span[0] == span[1]:
            widths[box.lane] = max(widths[box.lane], box.width)
    for box, span in zip(boxes, spans, strict=True):
        if span is not None:
            inside = sum(widths[span[0] : span[1] + 1]) + LANE_GAP * (span[1] - span[0])
            widths[span[0]] += max(0.0, box.width - inside)
    lane_edges, left = [], 4.0
    for width in widths:
        lane_edges.append((left, left + width))
        left += width + LANE_GAP
    return lane_edges


def _bar_spans(boxes: list[Box], edges: list[Edge]) -> list[tuple[int, int] | None]:
    """Returns the lanes that wide boxes stretch over, None for the others."""
    spans: list[tuple[int, int] | None] = []
    for number, box in enumerate(boxes):
        if box.kind not in BARS:
            spans.append(None)
            continue
        touching = [e.lane for e in edges if e.target == number]
        leaving = [e for e in edges if e.source == number]
        if box.kind != "concat":
            touching = [e.lane for e in leaving if len(leaving) != 2] or [box.lane]
        spans.append((min([box.lane, *touching]), max([box.lane, *touching])))
    return spans


def _arrow(
    edge: Edge,
    boxes: list[Box],
    middles: list[float],
    xs: list[float],
    spans: list[tuple[int, int] | None],
) -> str:
    source, target = boxes[edge.source], boxes[edge.target]
    x, start_x, end_x = xs[edge.lane], xs[source.lane], xs[target.lane]
    top = middles[edge.source] + source.height / 2
    end = middles[edge.target] - target.height / 2
    points = [(x, top)]
    span = spans[edge.source]
    if edge.lane != source.lane and not (span and span[0] <= edge.lane <= span[1]):
        points = [(start_x, top), (start_x, top + 9), (x, top + 9)]
    into = spans[edge.target]
    if edge.lane != target.lane and not (into and into[0] <= edge.lane <= into[1]):
        if target.kind in CIRCLES:
            side = RADIUS if x > end_x else -RADIUS
            points += [(x, middles[edge.target]), (end_x + side, middles[edge.target])]
        else:
            points += [(x, end - 12), (end_x, end - 12), (end_x, end)]
    else:
        points.append((x, end))
    return _line(points)


def _line(points: list[tuple[float, float]]) -> str:
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    (x0, y0), (x, y) = points[-2:]
    if abs(x - x0) > abs(y - y0):
        step = 9 if x > x0 else -9
        head = [(x, y), (x - step, y - 5), (x - step, y + 5)]
    else:
        head = [(x, y), (x - 5, y - 9), (x + 5, y - 9)]
    tips = " ".join(f"{a:.1f},{b:.1f}" for a, b in head)
    return f'<path d="{path}" class="l"/><polygon points="{tips}" class="h"/>'


def _box(box: Box, middle: float, x: float, bar: tuple[float, float] | None) -> str:
    if box.kind in CIRCLES:
        return (
            f'<circle cx="{x:.1f}" cy="{middle:.1f}" r="{RADIUS}" class="c"/>'
            f'<text x="{x:.1f}" y="{middle + 7:.1f}" class="o">{box.title}</text>'
        )
    width = box.width
    if bar is not None:
        x, width = sum(bar) / 2, bar[1] - bar[0]
    fill, line = COLOURS[box.kind]
    top = middle - box.height / 2
    parts = [
        f'<rect x="{x - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" '
        f'height="{box.height:.1f}" rx="6" fill="{fill}" stroke="{line}"/>'
    ]
    lines = [(box.title, "t")]
    details = [(text, "d") for text in box.details]
    lines = details + lines if box.first else lines + details
    if box.kind in ("concat", "input"):
        lines = [(box.title, "k" if box.kind == "concat" else "d")]
    for number, (text, style) in enumerate(lines):
        y = middle + LINE_HEIGHT * (number - (len(lines) - 1) / 2) + 6
        parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" class="{style}">{html.escape(text)}</text>'
        )
    return "".join(parts)
