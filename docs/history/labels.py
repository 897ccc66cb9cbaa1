"""Places for the labels of points in a chart, where they cover nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator

Placed = tuple[str, tuple[float, float], tuple[float, float, float, float]]
"""A label, its point and its place: left, top, right, bottom."""


def total_distance(placed: list[Placed]) -> float:
    """Returns how far labels are from their points; heights count three times."""
    return sum(
        math.hypot((left + right) / 2 - x, 3 * ((top + bottom) / 2 - y))
        for _, (x, y), (left, top, right, bottom) in placed
    )


def place(
    labelled: list[tuple[str, tuple[float, float]]],
    points: list[tuple[float, float]],
    box: tuple[int, int, int, int],
) -> list[Placed]:
    """Returns each label, in order, at the first place around its point that is free.

    Raises:
      ValueError: If there is none.
    """
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    # The legend's.
    taken.append((box[2] - 170, box[3] - 150, box[2], box[3]))
    around = {p: (p[0] - 15, p[1] - 15, p[0] + 15, p[1] + 15) for _, p in labelled}
    placed: list[Placed] = []
    for words, point in labelled:
        others = [near for other, near in around.items() if other != point]
        for mine in _places(words, point):
            inside = box[0] < mine[0] and mine[2] < box[2]
            inside = inside and box[1] < mine[1] and mine[3] < box[3]
            if inside and not any(_overlap(mine, other) for other in taken + others):
                break
        else:
            raise ValueError(f"{words}: found no free place for its label.")
        taken.append(mine)
        placed.append((words, point, mine))
    return placed


def _places(
    words: str, point: tuple[float, float]
) -> Iterator[tuple[float, float, float, float]]:
    """Yields places for a label around its point, the nearest first."""
    half = len(words) * 4.15
    for distance in range(0, 200, 8):
        for turn in range(16):
            angle = math.pi * turn / 8
            x = point[0] + math.cos(angle) * (half + 12 + 0.6 * distance)
            y = point[1] + math.sin(angle) * (16 + distance)
            yield x - half, y - 9, x + half, y + 9


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return (
        one[0] < other[2]
        and other[0] < one[2]
        and one[1] < other[3]
        and other[1] < one[3]
    )
