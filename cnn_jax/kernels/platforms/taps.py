"""Slices under each tap of a window, and sums over them.

A tap is one position inside the window; it covers a strided slice of the padded
input. Sums and selections over such slices compile to loops over contiguous channels,
which the compiler vectorises, where XLA's own windowed operation becomes a scalar loop
or one tiny matrix product per channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.geometry import Window


def tap_slices(
    x: jax.Array, window: Window, fill: jax.typing.ArrayLike
) -> Iterator[jax.Array]:
    """Yields the slice under each tap, in row-major order: `(n, *out_spatial, c)`.

    Args:
      x: Input `(n, *spatial, c)`.
      window: The window; it must fit at least once.
      fill: The value of padded positions.
    """
    padding = ((0, 0, 0), *((*pair, 0) for pair in window.padding), (0, 0, 0))
    # Without the barrier XLA fuses the producer of x into every slice: a silu in
    # front of a 5x5 window would be evaluated 25 times.
    x = lax.optimization_barrier(lax.pad(x, np.asarray(fill, x.dtype), padding))
    for tap in np.ndindex(*window.sizes):
        starts = [k * d for k, d in zip(tap, window.dilation, strict=True)]
        limits = [
            start + (out - 1) * stride + 1
            for start, out, stride in zip(
                starts, window.output_sizes, window.strides, strict=True
            )
        ]
        yield lax.slice(
            x,
            (0, *starts, 0),
            (x.shape[0], *limits, x.shape[-1]),
            (1, *window.strides, 1),
        )


def sum_over_windows(
    term_fn: Callable[..., jax.Array], window: Window, *operands: jax.Array
) -> jax.Array:
    """Sums a term over the windows that cover each input position, as one fused loop.

    Write a position in the padded input as s j + p with a phase p < s. Window j - q
    covers it if it has a tap k with d k = s q + p. So seen as `(n, j, p, c)`, each
    spatial axis split in two, the input receives one term for each shift q, made of the
    operands shifted by q and broadcast along p. The phase decides which tap it is.

    Args:
      term_fn: Called for each shift as `term_fn(taps, *shifted)`. `taps` holds for each
        phase the row-major number of its tap, or -1 for none, in an array
        `(1, 1, s, ..., 1, s, 1)`, and the operands come as `(n, j, 1, ..., j, 1, c)`.
        The term must have the shape in which these broadcast together.
      window: The window.
      *operands: Arrays `(n, *out_spatial, c)`; zero is shifted in.

    Returns:
      An array `(n, *spatial, c)`.
    """
    by_shift = _taps_by_shift(window)
    reach = np.max(list(by_shift), axis=0).tolist()
    lows = [low for low, _ in window.padding]
    blocks = [
        max(-(-(low + size) // stride), 1)
        for low, size, stride in zip(
            lows, window.input_sizes, window.strides, strict=True
        )
    ]
    margins = [
        (front, block - out, 0)
        for front, block, out in zip(reach, blocks, window.output_sizes, strict=True)
    ]
    phase_axes = tuple(range(2, 2 * window.rank + 1, 2))
    # The barrier keeps the operands' producers from being evaluated once per shift.
    padded = [
        jnp.expand_dims(
            lax.pad(
                operand, np.zeros((), operand.dtype), ((0, 0, 0), *margins, (0, 0, 0))
            ),
            phase_axes,
        )
        for operand in map(lax.optimization_barrier, operands)
    ]
    total: jax.Array | None = None
    for shift, taps in by_shift.items():
        shifted = []
        for operand in padded:
            for axis, (front, back, block) in enumerate(
                zip(reach, shift, blocks, strict=True)
            ):
                operand = lax.slice_in_dim(
                    operand, front - back, front - back + block, axis=2 * axis + 1
                )
            shifted.append(operand)
        taps = np.expand_dims(taps, (0, *range(1, 2 * window.rank, 2), -1))
        term = term_fn(taps, *shifted)
        total = term if total is None else total + term
    assert total is not None  # every window has a tap
    extents = [b * s for b, s in zip(blocks, window.strides, strict=True)]
    total = total.reshape(total.shape[0], *extents, total.shape[-1])
    crops = [
        (-low, low + size - extent, 0)
        for low, size, extent in zip(lows, window.input_sizes, extents, strict=True)
    ]
    return lax.pad(total, np.zeros((), total.dtype), ((0, 0, 0), *crops, (0, 0, 0)))


def _taps_by_shift(window: Window) -> dict[tuple[int, ...], np.ndarray]:
    by_shift: dict[tuple[int, ...], np.ndarray] = {}
    for number, tap in enumerate(np.ndindex(*window.sizes)):
        reach = [k * d for k, d in zip(tap, window.dilation, strict=True)]
        shift, phase = zip(*map(divmod, reach, window.strides), strict=True)
        by_shift.setdefault(shift, np.full(window.strides, -1))[phase] = number
    return by_shift
