"""Pictures for the notebooks: grids of numbers, arrows between them, quiet charts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyArrowPatch, Rectangle

INK, FAINT = "#24292f", "#d0d7de"
COLORS = {
    "input": "#0072b2",
    "filter": "#d55e00",
    "output": "#007a5a",
    "gradient": "#a8478c",
    "plain": "#57606a",
}
"""One colour for each role, the same in every notebook (Okabe and Ito's, darkened)."""

CELL_INCHES = 0.46
TITLE_CELLS = 0.75


def use_quiet_style() -> None:
    """Sets how all charts look: no frame, light grid, one size of text."""
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "font.family": "DejaVu Sans",
            "font.size": 10,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.titlesize": 10,
            "axes.titlelocation": "left",
            "axes.prop_cycle": plt.cycler(
                color=[COLORS[role] for role in ("input", "filter", "output")]
                + ["#a8478c", "#8a6500", "#2a8fbd"]
            ),
            "grid.color": FAINT,
            "grid.linewidth": 0.6,
            "xtick.color": INK,
            "ytick.color": INK,
            "legend.frameon": False,
            "savefig.facecolor": "white",
        }
    )


@dataclasses.dataclass(frozen=True)
class Grid:
    """A matrix to be drawn with its numbers.

    Attributes:
      values: The numbers, `(rows, columns)`; a vector is one row.
      title: What stands above.
      role: A key of `COLORS`; large entries are darker.
      marked: Positions `(row, column)` that get a thick frame.
      faint: True where a zero was only inserted: drawn in grey.
      digits: How many digits follow the point.
    """

    values: Any
    title: str = ""
    role: str = "plain"
    marked: Iterable[tuple[int, int]] = ()
    faint: Any = None
    digits: int = 0


def row(*parts: Grid | str, gap: float = 0.35) -> tuple[Any, list[tuple[float, float]]]:
    """Draws grids and the signs between them from left to right, centred.

    Args:
      *parts: Grids, and texts that stand between them.
      gap: Space between neighbours, in cells.

    Returns:
      The axes, whose unit is one cell, and the top left corner of each grid.
    """
    widths = [_width(part) for part in parts]
    heights = [
        np.atleast_2d(part.values).shape[0] for part in parts if isinstance(part, Grid)
    ]
    height = max(heights)
    width = sum(widths) + gap * (len(parts) - 1)
    figure = plt.figure(
        figsize=(
            CELL_INCHES * (width + 0.2),
            CELL_INCHES * (height + TITLE_CELLS + 0.2),
        )
    )
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_xlim(-0.1, width + 0.1)
    ax.set_ylim(height + 0.1, -TITLE_CELLS - 0.1)
    ax.set_axis_off()
    left, corners = 0.0, []
    for part, size in zip(parts, widths, strict=True):
        if isinstance(part, Grid):
            rows, columns = np.atleast_2d(part.values).shape
            corner = (left + (size - columns) / 2, (height - rows) / 2)
            draw(ax, part, corner)
            corners.append(corner)
        else:
            large = 20 if part in "⋆·" else 13
            place = {"ha": "center", "va": "center", "size": large}
            ax.text(left + size / 2, height / 2, part, **place)
        left += size + gap
    return ax, corners


def _width(part: Grid | str) -> float:
    if isinstance(part, Grid):
        # Titles may be wider than their grid.
        title = 0.175 * max(map(len, part.title.split("\n")))
        return max(float(np.atleast_2d(part.values).shape[1]), title)
    return 0.7 + 0.2 * (len(part) - 1)


def draw(ax: Any, grid: Grid, corner: tuple[float, float]) -> None:
    """Draws one grid with its top left corner at `corner`, in cells."""
    values = np.atleast_2d(np.asarray(grid.values, float))
    faint = np.zeros(values.shape, bool) if grid.faint is None else grid.faint
    largest = np.abs(values).max(initial=0.0) or 1.0
    left, top = corner
    color = np.array(to_rgb(COLORS[grid.role]))
    for (i, j), value in np.ndenumerate(values):
        strength = 0.06 + 0.44 * abs(value) / largest
        fill = "#f2f3f5" if faint[i, j] else 1 - strength * (1 - color)
        ax.add_patch(
            Rectangle((left + j, top + i), 1, 1, facecolor=fill, edgecolor="white")
        )
        text = f"{value:.{grid.digits}f}"
        text = text.replace("-", "\N{MINUS SIGN}") if float(text) else text.lstrip("-")
        ink = "#9aa1a9" if faint[i, j] else INK
        size = 10 if len(text) < 5 else 8
        ax.text(
            left + j + 0.5,
            top + i + 0.5,
            text,
            ha="center",
            va="center",
            size=size,
            color=ink,
        )
    for i, j in grid.marked:
        ax.add_patch(
            Rectangle(
                (left + j, top + i),
                1,
                1,
                fill=False,
                edgecolor=INK,
                linewidth=1.6,
                zorder=4,
            )
        )
    if grid.title:
        ax.text(
            left + values.shape[1] / 2,
            top - 0.2,
            grid.title,
            ha="center",
            va="bottom",
            color=COLORS[grid.role],
        )


def frame(
    ax: Any, corner: tuple[float, float], rows: slice, columns: slice, color: str = INK
) -> None:
    """Draws a frame around a block of cells of the grid at `corner`."""
    left, top = corner
    ax.add_patch(
        Rectangle(
            (left + columns.start, top + rows.start),
            columns.stop - columns.start,
            rows.stop - rows.start,
            fill=False,
            edgecolor=color,
            linewidth=2,
        )
    )


def arrow(
    ax: Any,
    start: tuple[float, float],
    end: tuple[float, float],
    *,
    color: str = COLORS["gradient"],
    bend: float = 0.15,
    shrink: float = 9,
) -> None:
    """Draws a bent arrow between two points, in cells; `shrink` points stay free."""
    ax.add_patch(
        FancyArrowPatch(
            start,
            end,
            connectionstyle=f"arc3,rad={bend}",
            arrowstyle="-|>",
            mutation_scale=11,
            linewidth=1.3,
            color=color,
            shrinkA=shrink,
            shrinkB=shrink,
            zorder=5,
        )
    )


def middle(corner: tuple[float, float], position: tuple[int, int]):
    """Returns the middle of one cell of the grid at `corner`."""
    return corner[0] + position[1] + 0.5, corner[1] + position[0] + 0.5


def below(corner: tuple[float, float], position: tuple[int, int]):
    """Returns a point under the number of one cell, for arrows that cross no number."""
    return corner[0] + position[1] + 0.5, corner[1] + position[0] + 0.88


def pictures(
    images: Sequence[Any],
    titles: Sequence[str] = (),
    *,
    columns: int | None = None,
    signed: bool = False,
    size: float = 1.25,
    scale: float | None = None,
) -> Any:
    """Shows images or feature maps side by side.

    Args:
      images: Matrices, or `(height, width, 3)` colours from 0 to 1.
      titles: One for each, or none.
      columns: How many stand in one row; None for all.
      signed: Whether 0 is white, positive red and negative blue; else 0, or the lowest
        value below it, is black and the highest white.
      size: Width and height of one, in inches.
      scale: The value of the strongest colour; None for each image's own.

    Returns:
      The figure.
    """
    columns = columns or len(images)
    rows = -(-len(images) // columns)
    title_inches = 0.26 * bool(titles)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(size * columns, (size + title_inches) * rows),
        squeeze=False,
        layout="constrained",
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for number, (ax, image) in enumerate(zip(axes.flat, images, strict=False)):
        image = np.asarray(image)
        largest = scale or float(np.abs(image).max()) or 1.0
        limits = {"cmap": "gray", "vmin": min(0.0, float(image.min())), "vmax": scale}
        if signed:
            limits = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
        ax.imshow(image, interpolation="nearest", **limits)
        if titles:
            ax.set_title(titles[number], size=9, loc="center", pad=3)
    return figure


def chain(
    operations: Sequence[str], values: Sequence[str], gradients: Sequence[str]
) -> Any:
    """Draws operations in a line, values above the arrows and gradients below.

    Args:
      operations: What each box says.
      values: What flows forwards, one more than boxes.
      gradients: What flows backwards, one more than boxes.

    Returns:
      The figure.
    """
    step, box = 2.6, 1.0
    width = step * len(operations) + (step - box)
    figure = plt.figure(figsize=(0.54 * width, 1.5))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_xlim(0, width)
    ax.set_ylim(-1.25, 1.25)
    ax.set_axis_off()
    for number, operation in enumerate(operations):
        left = step * (number + 1) - box
        ax.add_patch(
            Rectangle((left, -0.5), box, 1, facecolor="#f2f3f5", edgecolor=INK)
        )
        ax.text(left + box / 2, 0, operation, ha="center", va="center", size=11)
    for number, (value, gradient) in enumerate(zip(values, gradients, strict=True)):
        left, right = step * number, step * (number + 1) - box
        forwards, backwards = COLORS["output"], COLORS["gradient"]
        arrow(ax, (left, 0.25), (right, 0.25), color=forwards, bend=0, shrink=4)
        arrow(ax, (right, -0.25), (left, -0.25), color=backwards, bend=0, shrink=4)
        middle_x = (left + right) / 2
        ax.text(middle_x, 0.45, value, ha="center", va="bottom", color=forwards)
        ax.text(middle_x, -0.45, gradient, ha="center", va="top", color=backwards)
    return figure
