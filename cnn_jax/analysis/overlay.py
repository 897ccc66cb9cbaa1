"""Maps over images: what a network looks at, laid over what it looks at.

NumPy alone: pictures are made on the host, where they are written.
"""

from __future__ import annotations

import numpy as np

INFERNO = (
    (0, 0, 4),
    (22, 11, 57),
    (66, 10, 104),
    (106, 23, 110),
    (147, 38, 103),
    (188, 55, 84),
    (221, 81, 58),
    (243, 120, 25),
    (252, 165, 10),
    (246, 215, 70),
    (252, 255, 164),
)
"""Smith and van der Walt's colour map "inferno" (2015, CC0) at every tenth of its
length: it grows in lightness alone, so that it survives a black-and-white printer."""


def overlay(
    images: np.ndarray,
    maps: np.ndarray,
    *,
    opacity: float = 0.6,
    colors: tuple[tuple[int, int, int], ...] = INFERNO,
) -> np.ndarray:
    """Lays maps over images, as colours.

    Each map is resized to its image (`resize_maps`), divided by its largest value and
    looked up in the colours; then it covers the image, turned gray, by `opacity`.

    Args:
      images: uint8 `(n, height, width, c)`, one channel or three.
      maps: Finite numbers of at least 0, `(n, h, w)`. One that is 0 everywhere stays
        at the first colour.
      opacity: From 0, the gray image, to 1, the map alone.
      colors: At least two colours at equal steps, between which the map's are
        interpolated.

    Returns:
      uint8 `(n, height, width, 3)`.

    Raises:
      ValueError: If shapes, dtypes or values are others.
    """
    images, maps = np.asarray(images), np.asarray(maps)
    _check(images, maps, opacity)
    maps = resize_maps(maps, images.shape[1:3])
    largest = maps.max(axis=(1, 2), keepdims=True)
    painted = paint(maps / np.where(largest > 0, largest, 1.0), colors)
    blended = (1 - opacity) * _gray(images) + opacity * painted
    return np.round(blended).astype(np.uint8)


def paint(
    values: np.ndarray, colors: tuple[tuple[int, int, int], ...] = INFERNO
) -> np.ndarray:
    """Returns the colours of values from 0 to 1 `(...)`, as floats `(..., 3)`."""
    steps = np.linspace(0.0, 1.0, len(colors))
    table = np.asarray(colors, np.float64)
    return np.stack(
        [np.interp(values, steps, table[:, channel]) for channel in range(3)], axis=-1
    )


def resize_maps(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes maps `(n, h, w)` to `(n, *size)` bilinearly.

    Entries are taken as the middles of their cells, and beyond the outermost of them
    nothing is extrapolated: PyTorch's `align_corners=False`. Meant for enlarging;
    nothing is averaged where the result is smaller.
    """
    maps = np.asarray(maps, np.float64)
    rows, columns = (
        _interpolation(old, new) for old, new in zip(maps.shape[1:], size, strict=True)
    )
    return rows @ maps @ columns.T


def _interpolation(old: int, new: int) -> np.ndarray:
    """Returns the matrix `(new, old)` that interpolates along one dimension."""
    places = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.floor(places).astype(int)
    share = places - low
    matrix = np.zeros((new, old))
    matrix[np.arange(new), low] = 1 - share
    matrix[np.arange(new), np.minimum(low + 1, old - 1)] += share
    return matrix


def _gray(images: np.ndarray) -> np.ndarray:
    """Returns the lightness `(n, h, w, 1)` as floats from 0 to 255 (BT.601)."""
    if images.shape[-1] == 1:
        return images.astype(np.float64)
    return (images @ np.array([0.299, 0.587, 0.114]))[..., None]


def _check(images: np.ndarray, maps: np.ndarray, opacity: float) -> None:
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8:
        raise ValueError(
            f"overlay: got images {images.dtype}{list(images.shape)}, expected uint8 "
            "(n, height, width, 1 or 3): pixels, before they are normalised."
        )
    if maps.ndim != 3 or len(maps) != len(images) or 0 in maps.shape[1:]:
        raise ValueError(
            f"overlay: got maps {list(maps.shape)}, expected ({len(images)}, h, w), as "
            "many as images."
        )
    if not np.all(np.isfinite(maps)) or np.any(maps < 0):
        raise ValueError(
            "overlay: got maps with negative or infinite values or NaN, expected "
            "finite numbers of at least 0."
        )
    if not 0 <= opacity <= 1:
        raise ValueError(f"overlay: got opacity {opacity}, expected 0 to 1.")
