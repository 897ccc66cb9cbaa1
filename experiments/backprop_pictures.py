"""Matrices with their numbers, and pictures of signed arrays, for a study's page."""

from __future__ import annotations

import html as markup
from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np

from cnn_jax.report import html, images

Role = Literal["input", "filter", "output", "gradient"]

COLORS = {
    "input": "#0072b2",
    "filter": "#d55e00",
    "output": "#007a5a",
    "gradient": "#a8478c",
}
"""One colour for each role, those of the notebook on backpropagation."""

CELL = 48
WIDTH = 5
"""Cells that a picture is wide: smaller matrices leave some free, so that the cells of
all are of one size."""

PIXELS = 192


def number(value: float) -> str:
    """Returns a number with up to three decimals."""
    text = f"{value:.3f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text.replace("-", "\N{MINUS SIGN}")


def matrix(
    values: Any,
    title: str,
    role: Role,
    caption: str = "",
    marked: Collection[tuple[int, int]] = (),
) -> html.Chart:
    """Draws a matrix with every number in it.

    Args:
      values: At most `WIDTH` columns.
      title: What it is.
      role: The colour of its cells; the larger an entry, the fuller.
      caption: What to see in it.
      marked: Positions that get a frame.
    """
    values = np.atleast_2d(np.asarray(values, np.float64))
    rows, columns = values.shape
    largest = np.abs(values).max() or 1.0
    cells = []
    for row, column in np.ndindex(rows, columns):
        value = values[row, column]
        is_marked = (row, column) in marked
        frame = (2, "#24292f") if is_marked else (0.5, "#d0d7de")
        x, y = column * CELL + 2, row * CELL + 2
        text = number(value)
        size = 17 if len(text) < 5 else 14 if len(text) < 6 else 12
        cells.append(
            f'<rect x="{x}" y="{y}" width="{CELL - 2}" height="{CELL - 2}" '
            f'fill="{COLORS[role]}" '
            f'fill-opacity="{0.04 + 0.3 * abs(value) / largest:.2f}" '
            f'stroke="{frame[1]}" stroke-width="{frame[0]}"/>'
            f'<text x="{x + CELL / 2 - 1}" y="{y + CELL / 2 + 5}" font-size="{size}" '
            f'text-anchor="middle" fill="#24292f" style="stroke:none">{text}</text>'
        )
    label = f"{title}: " + "; ".join(" ".join(map(number, row)) for row in values)
    svg = (
        f'<svg viewBox="0 0 {WIDTH * CELL + 2} {rows * CELL + 2}" role="img" '
        f'aria-label="{markup.escape(label)}">{"".join(cells)}</svg>'
    )
    return html.Chart(svg, title, caption)


def packed(values: Any) -> list[str]:
    """Returns the rows of an array as texts: JSON has a line for each number else."""
    return [" ".join(f"{value:.3g}" for value in row) for row in np.asarray(values)]


def unpacked(rows: Sequence[str]) -> np.ndarray:
    """Returns the array that `packed` was given."""
    return np.array([row.split() for row in rows], np.float64)


def signed(values: Any, largest: float | None = None) -> np.ndarray:
    """Paints an array `(height, width)`: blue below zero, white at it, red above.

    Args:
      values: The numbers.
      largest: The size that gets the full colour; None for the largest there is.

    Returns:
      uint8 `(height, width, 3)`.
    """
    values = np.asarray(values, np.float64)
    share = np.clip(values / (largest or np.abs(values).max() or 1.0), -1, 1)[..., None]
    full = np.where(share > 0, [178.0, 24.0, 43.0], [33.0, 102.0, 172.0])
    return np.round(255 + np.abs(share) * (full - 255)).astype(np.uint8)


def grey(values: Any) -> np.ndarray:
    """Paints an array from its smallest entry, black, to its largest, white."""
    values = np.asarray(values, np.float64)
    share = (values - values.min()) / (np.ptp(values) or 1.0)
    return np.repeat(np.round(255 * share)[..., None], 3, -1).astype(np.uint8)


def picture(parts: Sequence[np.ndarray], title: str, caption: str) -> html.Picture:
    """Stacks painted arrays `(height, width, 3)` of any size, each as wide as all.

    Pixels are enlarged here: a browser would blur them.
    """
    stack: list[np.ndarray] = []
    for part in parts:
        height, width, _ = part.shape
        rows = np.arange(round(PIXELS * height / width)) * width // PIXELS
        enlarged = part[rows][:, np.arange(PIXELS) * width // PIXELS]
        framed = enlarged.copy()
        framed[[0, -1]] = framed[:, [0, -1]] = 208
        stack += [framed, np.full((8, PIXELS, 3), 255, np.uint8)]
    return html.Picture(images.data_uri(np.concatenate(stack[:-1])), title, caption)
