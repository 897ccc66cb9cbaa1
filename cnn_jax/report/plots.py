"""Charts as inline SVG: text stays text, every line is labelled where it ends.

matplotlib draws; `svg` makes what it writes fit to stand inside a page.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnn_jax.report import svg
from cnn_jax.report.labels import FONT_SIZE, label_ends, label_points, text_width
from cnn_jax.report.statistics import Interval

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

COLORS = (
    "#0072b2",
    "#d55e00",
    "#007a5a",
    "#a8478c",
    "#8a6500",
    "#2a8fbd",
    "#444444",
    "#7a4fbf",
)
"""Okabe and Ito's colours, distinguishable by colour-blind readers (2008), darkened
where needed so that a label in any of them can be read on white."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""One marker for each colour, so that colour is never the only difference. From the
ninth style on, markers are hollow and lines dashed."""

INK, FAINT = "#24292f", "#d0d7de"

STYLE: dict[Any, object] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": FONT_SIZE,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.usetex": False,
    "text.parse_math": False,
}


@dataclasses.dataclass(frozen=True)
class Curve:
    """One line: a mean and its band.

    Attributes:
      label: What stands at the end of the line.
      x: The positions, ascending; at least one.
      values: The interval at each position; one observation has no band.
      style: The index of its colour and marker; keep it the same across charts.
    """

    label: str
    x: Sequence[float]
    values: Sequence[Interval]
    style: int = 0


@dataclasses.dataclass(frozen=True)
class Point:
    """One labelled point with a vertical error bar.

    Attributes:
      label: What stands beside it.
      x: Its position, positive (the axis is logarithmic).
      value: Its height and the ends of its error bar.
      style: The index of its colour and marker; keep it the same across charts.
    """

    label: str
    x: float
    value: Interval
    style: int = 0


@dataclasses.dataclass(frozen=True)
class Bar:
    """One bar of a reliability diagram.

    Attributes:
      low: Where it begins, a fraction.
      high: Where it ends.
      height: How high it is, a fraction.
      weight: How many examples are in it.
    """

    low: float
    high: float
    height: float
    weight: int


def line_chart(
    curves: Sequence[Curve],
    *,
    title: str,
    description: str,
    x_label: str,
    y_label: str,
    scale: float = 1,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    ticks: Mapping[float, str] | None = None,
) -> str:
    """Draws curves with their bands, over whole numbers (epochs) or marked positions.

    Args:
      curves: What to draw.
      title: A short name, read out by screen readers; no other chart of the page may
        have it, since its identifiers are made of it.
      description: What there is to see, for those who cannot see it.
      x_label: What x is.
      y_label: What y is, with its unit.
      scale: What the values are multiplied by before they are drawn.
      bounds: The smallest and the greatest possible value: bands end there.
      ticks: The positions to mark, all positive, and what to write there; the axis is
        then logarithmic. None marks whole numbers on a linear one.

    Returns:
      An `<svg>` element to be put into an HTML page.

    Raises:
      ValueError: If a curve has no point or not one value for each position, or a
        mark is not positive.
    """
    import matplotlib

    if ticks is not None and not all(place > 0 for place in ticks):
        raise ValueError(
            f"ticks: got {list(ticks)}, expected positive numbers: the axis is "
            "logarithmic."
        )
    for curve in curves:
        if not curve.x or len(curve.x) != len(curve.values):
            raise ValueError(
                f"curve {curve.label!r}: got {len(curve.x)} positions and "
                f"{len(curve.values)} values, expected as many of both, at least one."
            )
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": title}):
        figure, axes = _empty_figure(x_label, y_label)
        spots = []
        for index, curve in enumerate(curves):
            color, line_style = _color(curve.style), _line_style(curve.style)
            low, mean, high = (
                [min(max(end, bounds[0]), bounds[1]) * scale for end in ends]
                for ends in zip(
                    *((v.low, v.mean, v.high) for v in curve.values), strict=True
                )
            )
            every = math.ceil(len(curve.x) / 20)
            line = axes.plot(curve.x, mean, markersize=5, markevery=every, **line_style)
            if len(curve.x) > 1:
                band = axes.fill_between(
                    curve.x, low, high, color=color, alpha=0.12, lw=0
                )
                svg.name_part(index, "band", band)
            else:
                bar = _error_bar(axes, curve.x[0], mean[0], low[0], high[0], color)
                svg.name_part(index, "bar", *bar)
            svg.name_part(index, "line", *line)
            drawn = list(zip(low, mean, high, strict=True))
            spots += _spots(index, curve, drawn, x_label, ticks or {})
        if ticks is None:
            _mark_whole_numbers(axes, curves)
        else:
            _mark_positions(axes, ticks)
        _make_room_for_ticks(axes)
        label_ends(
            axes,
            [
                (c.label, c.x[-1], c.values[-1].mean * scale, _color(c.style))
                for c in curves
            ],
        )
        return svg.inline_svg(figure, title, description, spots)


def scatter_chart(
    points: Sequence[Point],
    *,
    title: str,
    description: str,
    x_label: str,
    y_label: str,
    scale: float = 1,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    x_unit: str = "",
) -> str:
    """Draws labelled points with error bars over a logarithmic axis.

    Args:
      points: What to draw.
      title: A short name, read out by screen readers; no other chart of the page may
        have it, since its identifiers are made of it.
      description: What there is to see, for those who cannot see it.
      x_label: What x is, with its unit.
      y_label: What y is, with its unit.
      scale: What the values are multiplied by before they are drawn.
      bounds: The smallest and the greatest possible value: error bars end there.
      x_unit: What stands behind the numbers on the x axis: `"s"` makes 0.03 `30 ms`.

    Returns:
      An `<svg>` element to be put into an HTML page.

    Raises:
      ValueError: If a position is not positive.
    """
    import matplotlib
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    for point in points:
        if not point.x > 0:
            raise ValueError(
                f"point {point.label!r}: got x {point.x}, expected a positive number: "
                "the axis is logarithmic."
            )
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": title}):
        figure, axes = _empty_figure(x_label, y_label)
        axes.set_xscale("log")
        bars, spots = [], []
        number = EngFormatter(x_unit, sep=" ", places=1)
        for index, point in enumerate(points):
            mean, low, high = (
                min(max(end, bounds[0]), bounds[1]) * scale
                for end in (point.value.mean, point.value.low, point.value.high)
            )
            bar = _error_bar(axes, point.x, mean, low, high, _color(point.style))
            mark = axes.plot(
                [point.x], [mean], markersize=8, **_line_style(point.style)
            )
            svg.name_part(index, "bar", *bar)
            svg.name_part(index, "mark", *mark)
            bars.append((point.x, low, high))
            told = svg.describe(low, mean, high)
            text = f"{point.label}: {told} at {number(point.x)}"
            spots.append(svg.Spot(index, point.x, mean, text))
        axes.set_ymargin(0.12)
        smallest, greatest = min(p.x for p in points), max(p.x for p in points)
        _make_room_for_ticks(axes)
        # Space for a label right of the last point, which the left one does not need.
        width = max(text_width(axes, point.label) for point in points) + 20
        share = min(width / axes.bbox.width, 0.5)
        factor = (1.8 * greatest / smallest) ** (share / (1 - share))
        axes.set_xlim(smallest / 1.8, greatest * max(factor, 1.8))
        decades = math.log10(greatest / smallest) + 0.5
        steps = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1 else (1, 2, 3, 5)
        axes.xaxis.set_major_locator(LogLocator(subs=steps))
        axes.xaxis.set_major_formatter(EngFormatter(x_unit, sep=" "))
        axes.xaxis.set_minor_formatter(NullFormatter())
        label_points(
            axes,
            [(p.label, p.x, p.value.mean * scale, _color(p.style)) for p in points],
            bars,
        )
        return svg.inline_svg(figure, title, description, spots)


def reliability_chart(
    bars: Sequence[Bar], *, title: str, description: str, x_label: str, y_label: str
) -> str:
    """Draws accuracy over confidence, in percent, with the line where both are equal.

    Args:
      bars: At least one; the more weight, the fuller their colour.
      title: As for `line_chart`.
      description: As for `line_chart`.
      x_label: What x is.
      y_label: What y is.

    Returns:
      An `<svg>` element to be put into an HTML page.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE | {"svg.hashsalt": title}):
        figure, axes = _empty_figure(x_label, y_label)
        most = max(bar.weight for bar in bars)
        for bar in bars:
            axes.bar(
                100 * bar.low,
                100 * bar.height,
                width=100 * (bar.high - bar.low),
                align="edge",
                color=COLORS[0],
                edgecolor="white",
                # Their weights differ by orders of magnitude.
                alpha=0.25 + 0.75 * math.log1p(bar.weight) / math.log1p(most),
            )
        axes.plot([0, 100], [0, 100], linestyle="--", color=INK, lw=1)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        return svg.inline_svg(figure, title, description)


def bar_chart(
    bars: Sequence[tuple[str, Interval]],
    *,
    title: str,
    description: str,
    x_label: str,
    scale: float,
    limits: tuple[float, float],
) -> str:
    """Draws a horizontal bar with its interval for each name, from top to bottom.

    Args:
      bars: Names and values, at least one.
      title: As for `line_chart`.
      description: As for `line_chart`.
      x_label: What the values are, with their unit.
      scale: What they are multiplied by before they are drawn.
      limits: The ends of the axis.

    Returns:
      An `<svg>` element to be put into an HTML page.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE | {"svg.hashsalt": title}):
        figure, axes = _empty_figure(x_label, "", min(1.2 + 0.4 * len(bars), 4.4))
        names = [name if len(name) <= 24 else f"{name[:23]}…" for name, _ in bars]
        values = [interval for _, interval in bars]
        means = [scale * value.mean for value in values]
        ends = [
            [scale * (value.mean - value.low) for value in values],
            [scale * (value.high - value.mean) for value in values],
        ]
        axes.barh(
            range(len(bars)), means, xerr=ends, color=COLORS[5], ecolor=INK, capsize=2
        )
        axes.set_yticks(range(len(bars)), names)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_xlim(*limits)
        axes.grid(visible=False, axis="y")
        _make_room_for_ticks(axes)
        return svg.inline_svg(figure, title, description)


def _mark_whole_numbers(axes: matplotlib.axes.Axes, curves: Sequence[Curve]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if max(len(curve.x) for curve in curves) == 1:
        axes.set_xlim(curves[0].x[0] - 0.5, curves[0].x[0] + 0.5)


def _mark_positions(axes: matplotlib.axes.Axes, ticks: Mapping[float, str]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.xaxis.set_minor_locator(NullLocator())


def _empty_figure(
    x_label: str, y_label: str, height: float = 4.4
) -> tuple[matplotlib.figure.Figure, matplotlib.axes.Axes]:
    """Returns a small figure that stays readable when a phone shrinks it a little.

    The measure on the y axis stands above it, upright, where it is read first. The
    height is in inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, height), dpi=72, layout="none")  # type: ignore[arg-type]  # its stubs lack the word
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.09, 0.528 / height, 0.86, 1 - 0.836 / height))
    axes.set_xlabel(x_label)
    top = 1 - 0.167 / height
    figure.text(0.017, top, y_label, fontsize=FONT_SIZE, va="baseline")
    # No factor shared by all numbers: it would be drawn across the name of y.
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    return figure, axes


def _make_room_for_ticks(axes: matplotlib.axes.Axes) -> None:
    """Moves the left end of the axes to where the labels of its ticks fit.

    Tiny numbers get exponents, of which plain numbers would show zeros alone.
    """
    axes.autoscale_view(scalex=False)
    if max(map(abs, axes.get_ylim())) < 1e-3:
        axes.yaxis.set_major_formatter("{x:.6g}")
    width = max(text_width(axes, label.get_text()) for label in axes.get_yticklabels())
    left, bottom, old_width, height = axes.get_position().bounds
    wanted = min(max(left, (width + 12) / axes.figure.bbox.width), 0.6)
    axes.set_position((wanted, bottom, left + old_width - wanted, height))


def _color(style: int) -> str:
    return COLORS[style % len(COLORS)]


def _line_style(style: int) -> dict[str, Any]:
    repeated = style >= len(COLORS)
    return {
        "color": _color(style),
        "marker": MARKERS[style % len(MARKERS)],
        "linestyle": "--" if repeated else "-",
        "markerfacecolor": "white" if repeated else _color(style),
    }


def _error_bar(
    axes: matplotlib.axes.Axes, x: float, y: float, low: float, high: float, color: str
) -> list[Any]:
    """Draws an error bar and returns what it consists of."""
    drawn = axes.errorbar(
        [x], [y], yerr=[[y - low], [high - y]], color=color, capsize=3, lw=1.2
    )
    return drawn.get_children()


def _spots(
    series: int,
    curve: Curve,
    drawn: Sequence[tuple[float, float, float]],
    x_label: str,
    ticks: Mapping[float, str],
) -> list[svg.Spot]:
    """Returns what the points of a curve tell: all, or every n-th up to the last."""
    every = math.ceil(len(drawn) / svg.MOST_SPOTS)
    return [
        svg.Spot(
            series,
            x,
            mean,
            f"{curve.label}, {x_label} {ticks.get(x, f'{x:g}')}: "
            f"{svg.describe(low, mean, high)}",
        )
        for x, (low, mean, high) in list(zip(curve.x, drawn, strict=True))[::-every]
    ]
