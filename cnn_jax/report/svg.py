"""A figure as one `<svg>` element of a page, whose series answer the pointer.

What matplotlib writes is made fit to stand inside a page: no document head, identifiers
that belong to one chart only, a title and a description for people who do not see it,
and the page's own fonts. All that belongs to one series becomes one group: the page's
style sheet makes the others pale while the pointer is on it, on its line or its label,
and every point tells its numbers. No script is needed for either.
"""

from __future__ import annotations

import dataclasses
import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

SVG_SPACE = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"

REACH = 9
"""The distance from a point, in pixels of the chart, at which the pointer is on it."""

MOST_SPOTS = 60
"""The most points of one series that tell their numbers; of more, every n-th does."""

_SERIES = re.compile(r"series-(\d+)-")


@dataclasses.dataclass(frozen=True)
class Spot:
    """A point that tells its numbers to the pointer.

    Attributes:
      series: The index of its series.
      x: Its position, in units of the axes.
      y: Its height.
      text: What it tells.
    """

    series: int
    x: float
    y: float
    text: str


def name_part(series: int, part: str, *artists: Any) -> None:
    """Marks matplotlib's artists as parts of a series, for `inline_svg`."""
    for index, artist in enumerate(artists):
        artist.set_gid(f"series-{series}-{part}-{index}")


def describe(low: float, mean: float, high: float) -> str:
    """Returns a number to four digits, with its interval if it has one."""
    ends = "" if low == high else f" ({low:.4g} to {high:.4g})"
    return f"{mean:.4g}{ends}"


def inline_svg(
    figure: matplotlib.figure.Figure,
    title: str,
    description: str,
    spots: Sequence[Spot] = (),
) -> str:
    """Writes a figure as one accessible `<svg>` element without a namespace.

    Args:
      figure: The figure, of 72 pixels an inch.
      title: A short name, read out by screen readers; no other chart of the page may
        have it, since its identifiers are made of it.
      description: What there is to see, for those who cannot see it.
      spots: The points that tell their numbers, of the figure's first axes.

    Returns:
      The element, to be put into an HTML page.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for element in root.findall(f"{SVG_SPACE}metadata"):
        root.remove(element)
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG_SPACE)
    _group_series(root, _targets(figure, spots))
    prefix = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    for element in root.iter():
        attributes = {}
        for key, value in element.attrib.items():
            if key == "id":
                value = f"{prefix}-{value}"
            elif key == LINK:
                key, value = "href", f"#{prefix}-{value.removeprefix('#')}"
            value = re.sub(r"url\(#", f"url(#{prefix}-", value)
            attributes[key] = re.sub(
                r"'DejaVu Sans'[^;]*", "system-ui, sans-serif", value
            )
        element.attrib = attributes
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-labelledby": f"{prefix}-title {prefix}-description",
    }
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        name = "description" if tag == "desc" else tag
        element = ElementTree.Element(tag, {"id": f"{prefix}-{name}"})
        element.text = text
        root.insert(place, element)
    return ElementTree.tostring(root, encoding="unicode")


def _targets(
    figure: matplotlib.figure.Figure, spots: Sequence[Spot]
) -> dict[int, list[ElementTree.Element]]:
    """Returns series -> an invisible circle around each of its spots."""
    found: dict[int, list[ElementTree.Element]] = {}
    for spot in spots:
        x, y = figure.axes[0].transData.transform((spot.x, spot.y))
        circle = ElementTree.Element(
            "circle",
            {
                "class": "spot",
                "cx": f"{x:.2f}",
                "cy": f"{figure.bbox.height - y:.2f}",
                "r": str(REACH),
            },
        )
        ElementTree.SubElement(circle, "title").text = spot.text
        found.setdefault(spot.series, []).append(circle)
    return found


def _group_series(
    root: ElementTree.Element, targets: dict[int, list[ElementTree.Element]]
) -> None:
    """Moves the parts of each series, and its targets, into a group of its own."""
    parts: dict[int, list[ElementTree.Element]] = {}
    axes = None
    for parent in list(root.iter()):
        for element in list(parent):
            if found := _SERIES.match(element.get("id", "")):
                parent.remove(element)
                parts.setdefault(int(found[1]), []).append(element)
                axes = parent if axes is None else axes
    if axes is None:
        return
    for series, elements in sorted(parts.items()):
        group = ElementTree.SubElement(axes, "g", {"class": "series"})
        group.extend([*elements, *targets.get(series, [])])
