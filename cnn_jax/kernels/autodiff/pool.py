"""Pooling as `lax.reduce_window`."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import TypedDict, Unpack

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.geometry import Padding, Window
from cnn_jax.kernels import windowed
from cnn_jax.kernels.autodiff.vectors import type_beside


class MaxPoolGeometry(TypedDict, total=False):
    """The keywords of `max_pool`, which its gradient takes, too."""

    strides: int | Sequence[int] | None
    padding: Padding
    dilation: int | Sequence[int]


class AvgPoolGeometry(TypedDict, total=False):
    """The keywords of `avg_pool`, which its gradient takes, too."""

    strides: int | Sequence[int] | None
    padding: Padding
    count_include_pad: bool


def max_pool(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
) -> jax.Array:
    """Returns the maximum under each placement of a window; see `kernels.max_pool`.

    Args:
      x: Input `(n, *spatial, c)`.
      window: The window's size.
      strides: Step of the window; None means the window's size.
      padding: "SAME", "VALID", an integer, or one entry per dimension.
      dilation: Step inside the window.

    Returns:
      Output `(n, *spatial, c)`.
    """
    geometry = Window.resolve(
        x.shape[1:-1],
        window,
        strides=window if strides is None else strides,
        padding=padding,
        dilation=dilation,
    )
    # Written out, since reduce_window's derivative takes no negative padding.
    x = _pad_spatially(x, geometry, -jnp.inf)
    if any(step > 1 for step in geometry.dilation):
        return _first_maximum(x, geometry)
    return lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        window_dimensions=(1, *geometry.sizes, 1),
        window_strides=(1, *geometry.strides, 1),
        padding="VALID",
    )


def max_pool_grad(
    x: jax.Array,
    dy: jax.Array,
    window: int | Sequence[int],
    **geometry: Unpack[MaxPoolGeometry],
) -> jax.Array:
    """Applies the VJP of `max_pool` at x, by `jax.vjp`.

    Args:
      x: Input `(n, *spatial, c)`.
      dy: The output's cotangent.
      window: The window's size.
      **geometry: `max_pool`'s keywords.

    Returns:
      The input's cotangent, of x's shape.
    """
    _, pull_back = jax.vjp(lambda x: max_pool(x, window, **geometry), x)
    return pull_back(dy)[0]


def avg_pool(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> jax.Array:
    """Returns the mean under each placement of a window; see `kernels.avg_pool`.

    Args:
      x: Input `(n, *spatial, c)`.
      window: The window's size.
      strides: Step of the window; None means the window's size.
      padding: "SAME", "VALID", an integer, or one entry per dimension.
      count_include_pad: Whether padding counts as elements of value 0.

    Returns:
      Output `(n, *spatial, c)`.
    """
    geometry = Window.resolve(
        x.shape[1:-1],
        window,
        strides=window if strides is None else strides,
        padding=padding,
    )

    def total(x):
        return lax.reduce_window(
            _pad_spatially(x, geometry, 0.0),
            0.0,
            lax.add,
            window_dimensions=(1, *geometry.sizes, 1),
            window_strides=(1, *geometry.strides, 1),
            padding="VALID",
        )

    if count_include_pad:
        return total(x) / math.prod(geometry.sizes)
    # A window wholly in the padding has the mean 0.
    ones = jnp.ones((1, *x.shape[1:-1], 1), x.dtype)
    return total(x) / jnp.maximum(total(ones), 1)


def avg_pool_grad(
    dy: jax.Array,
    window: int | Sequence[int],
    *,
    input_shape: Sequence[int],
    **geometry: Unpack[AvgPoolGeometry],
) -> jax.Array:
    """Applies the transpose of `avg_pool`, by `jax.linear_transpose`.

    Args:
      dy: The output's cotangent.
      window: The window's size.
      input_shape: The shape of x.
      **geometry: `avg_pool`'s keywords.

    Returns:
      The input's cotangent, of `input_shape`.
    """
    x = type_beside(dy, tuple(input_shape), axes=(0, -1))
    (dx,) = jax.linear_transpose(lambda x: avg_pool(x, window, **geometry), x)(dy)
    return dx


def global_avg_pool(x: jax.Array) -> jax.Array:
    """Averages over all spatial positions: `(n, *spatial, c)` to `(n, c)`."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))


def _pad_spatially(x: jax.Array, window: Window, value: float) -> jax.Array:
    x, pairs = windowed.crop(x, window.padding)
    return lax.pad(
        x, jnp.array(value, x.dtype), ((0, 0, 0), *((*p, 0) for p in pairs), (0, 0, 0))
    )


def _first_maximum(x: jax.Array, window: Window) -> jax.Array:
    """Returns the maximum over a dilated window's taps, the first of equals taken.

    JAX has no derivative of a dilated `reduce_window`, so the taps are compared one
    by one, in the order and with the comparison of XLA's select-and-scatter.
    """
    sizes = (x.shape[0], *window.output_sizes, x.shape[-1])
    steps = (1, *window.strides, 1)
    if 0 in sizes:
        return jnp.zeros(sizes, x.dtype)
    best: jax.Array | None = None
    for tap in itertools.product(*map(range, window.sizes)):
        start = (0, *map(operator.mul, tap, window.dilation), 0)
        limit = [
            first + (size - 1) * step + 1
            for first, size, step in zip(start, sizes, steps, strict=True)
        ]
        value = lax.slice(x, start, limit, steps)
        if best is None:
            best, has_nan = value, jnp.isnan(value)
        else:
            best = jnp.where(best >= value, best, value)
            has_nan |= jnp.isnan(value)
    assert best is not None  # every window has a tap
    return best + jnp.where(has_nan, jnp.nan, 0.0).astype(x.dtype)
