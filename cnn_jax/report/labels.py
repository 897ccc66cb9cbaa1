"""Labels of lines and points, placed where they cover least and leave no chart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cnn_jax.report import svg

if TYPE_CHECKING:
    import matplotlib.axes

FONT_SIZE = 11
LABEL_GAP = 15
"""Points between the middles of two labels, and pixels: charts have 72 per inch."""


def label_ends(
    axes: matplotlib.axes.Axes, ends: Sequence[tuple[str, float, float, str]]
) -> None:
    """Writes each label right of the axes, as near to its line's end as it may.

    Args:
      axes: The axes, which become narrower by the longest label.
      ends: The label, x, y and colour of each line, in the order of their series.
    """
    figure = axes.figure
    width = max(text_width(axes, label) for label, *_ in ends) + 22
    left, bottom, _, height = axes.get_position().bounds
    axes.set_position((left, bottom, 0.99 - width / figure.bbox.width - left, height))
    to_pixels = _to_pixels(axes)
    heights = [to_pixels((x, y))[1] for _, x, y, _ in ends]
    placed = _spread(heights, LABEL_GAP, axes.bbox.y0, axes.bbox.y1)
    right = axes.bbox.x1
    for index, ((label, x, y, color), height) in enumerate(
        zip(ends, placed, strict=True)
    ):
        written = axes.annotate(
            label,
            xy=(x, y),
            xytext=(right + 20, height),
            textcoords="figure pixels",
            color=color,
            va="center",
            annotation_clip=False,
            arrowprops=_leader(color, (0, 0.5)),
        )
        svg.name_part(index, "label", written, written.arrow_patch)


def _leader(color: str, start: tuple[float, float]) -> dict[str, object]:
    """Draws a thin line from `start`, in units of a label's box, to what it names."""
    return {
        "arrowstyle": "-",
        "color": color,
        "lw": 0.8,
        "alpha": 0.6,
        "shrinkA": 1,
        "shrinkB": 4,
        "relpos": start,
    }


def _spread(
    wanted: Sequence[float], gap: float, low: float, high: float
) -> list[float]:
    """Moves positions apart to at least `gap`, little, and inside `low` to `high`."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = [wanted[index] for index in order]
    for _ in range(200):
        for index in range(len(placed) - 1):
            short = gap - (placed[index + 1] - placed[index])
            if short > 0:
                placed[index] -= short / 2
                placed[index + 1] += short / 2
        placed = [min(max(place, low), high) for place in placed]
    result = [0.0] * len(wanted)
    for index, place in zip(order, placed, strict=True):
        result[index] = place
    return result


def label_points(
    axes: matplotlib.axes.Axes,
    points: Sequence[tuple[str, float, float, str]],
    bars: Sequence[tuple[float, float, float]],
) -> None:
    """Writes each label beside its point, where it covers least of anything else.

    Args:
      axes: The axes.
      points: The label, x, y and colour of each point, in the order of their series.
      bars: x and the ends of each error bar.
    """
    to_pixels = _to_pixels(axes)
    spots = [tuple(to_pixels((x, y))) for _, x, y, _ in points]
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in spots]
    for x, low, high in bars:
        (left, bottom), (_, top) = to_pixels((x, low)), to_pixels((x, high))
        taken.append((left - 3, bottom, left + 3, top))
    # From the top, so that labels pushed down by others stay in the points' order.
    for place in sorted(range(len(points)), key=lambda place: -spots[place][1]):
        (label, _, _, color), (x, y) = points[place], spots[place]
        width = text_width(axes, label)
        # Nearest first: of boxes that cover equally little, `min` takes the first.
        boxes = [
            (left, y + rise - 7, left + width, y + rise + 7)
            for rise in (0, 14, -14, 28, -28, 42, -42)
            for left in (x + 11, x - 11 - width)
        ]
        inside = tuple(axes.bbox.extents)
        box = min(boxes, key=lambda box: _covered(box, taken, inside))
        taken.append(box)
        on_right = box[0] > x
        written = axes.annotate(
            label,
            xy=(x, y),
            xycoords="figure pixels",
            xytext=(box[0], (box[1] + box[3]) / 2),
            textcoords="figure pixels",
            color=color,
            va="center",
            annotation_clip=False,
            arrowprops=_leader(color, (0 if on_right else 1, 0.5)),
        )
        svg.name_part(place, "label", written, written.arrow_patch)


def _to_pixels(axes: matplotlib.axes.Axes) -> Callable[[Any], Any]:
    """Fixes the limits and returns the map from the axes' units to pixels."""
    axes.autoscale_view()
    return axes.transData.transform


def _covered(
    box: tuple[float, ...],
    taken: Sequence[tuple[float, ...]],
    inside: tuple[float, ...],
) -> float:
    """Returns the area of `box` that overlaps what is taken or is outside the axes."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    return sum(_shared(box, other) for other in taken) + area - _shared(box, inside)


def _shared(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


def text_width(axes: matplotlib.axes.Axes, text: str) -> float:
    """Returns how wide a label is in the figure's pixels."""
    from matplotlib.font_manager import FontProperties

    canvas: Any = axes.figure.canvas  # Agg's, see `_empty_figure`
    renderer = canvas.get_renderer()
    font = FontProperties(size=FONT_SIZE)
    return renderer.get_text_width_height_descent(text, font, ismath=False)[0]
