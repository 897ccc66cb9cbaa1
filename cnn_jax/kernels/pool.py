r"""Pooling and its gradients, derived by hand.

Max-pooling passes on one input per window,

    y[n, p, c] = max_k x[n, s p + d k - l, c] = x[n, s p + d k*(n, p, c) - l, c],

so near x it is a selection by the index map k*, and its gradient sends each dy
to the selected position: dx[n, q, c] = sum of dy[n, p, c] over the windows p that
select q. Ties go to the first position in row-major order; a window wholly in the
padding yields -inf and its gradient is dropped. Saving k* takes one byte per output,
where autodiff keeps the whole input and its output.

Average pooling is linear: each dy is shared equally among the positions that its window
averaged.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.geometry import (
    Padding,
    Window,
    layout_hint,
    looks_like_images_channels_first,
    output_size,
)
from cnn_jax.kernels import autodiff, platforms
from cnn_jax.kernels.kernel import custom_vjp, kernel
from cnn_jax.kernels.operands import (
    accumulation_dtype,
    align_manual_axes,
    require_floating,
)
from cnn_jax.kernels.platforms import index_map_max_pool, xla


@kernel(autodiff.max_pool)
def max_pool(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
) -> jax.Array:
    """Returns the largest value under every placement of the window.

    dx[n, q, c] = sum of dy[n, p, c] over the windows p whose first maximum is at q.

    Args:
      x: Input `(n, *spatial, c)`, one to three spatial dimensions.
      window: Size of the window, one integer or one per dimension.
      strides: Step between two placements; None means the window's size.
      padding: As for `conv`; padded positions count as -inf.
      dilation: Step between two positions inside the window.

    Returns:
      `(n, *out_spatial, c)` in x's dtype.

    Raises:
      ValueError: If shapes or arguments do not fit together.
    """
    x = jnp.asarray(x)
    resolved = _resolve(
        "max_pool", x.shape, window, strides, padding, dilation, is_forward=True
    )
    require_floating("max_pool", x=x)
    return _max_pool(x, resolved, platforms.current_target())


@functools.partial(custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x, window, target):
    del target  # the residuals differ between platforms, the value does not
    return xla.max_pool(x, window)


def _max_pool_fwd(x, window, target):
    if _has_select_and_scatter(window, target):
        return xla.max_pool(x, window), x
    return index_map_max_pool.max_pool_with_index(x, window)


def _max_pool_bwd(window, target, residual, dy):
    if _has_select_and_scatter(window, target):
        return (xla.max_pool_grad(residual, dy, window),)
    return (index_map_max_pool.max_pool_grad_from_index(dy, residual, window),)


def _has_select_and_scatter(window, target):
    """Returns whether XLA has a backward pass and it is the target's fastest.

    It has none for windows that are dilated or crop the input.
    """
    return (
        target == "tpu"
        and max(window.dilation) == 1
        and min(map(min, window.padding)) >= 0
    )


_max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


@kernel(autodiff.max_pool_grad)
def max_pool_grad(
    x: jax.Array,
    dy: jax.Array,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
) -> jax.Array:
    """Returns dL/dx of `max_pool`: each dy goes to its window's first maximum.

    Args:
      x: Input `(n, *spatial, c)`.
      dy: dL/dy, of the shape that `max_pool` returns.
      window: As for `max_pool`, and so the remaining arguments.
      strides: As for `max_pool`.
      padding: As for `max_pool`.
      dilation: As for `max_pool`.

    Returns:
      dL/dx, of x's shape and dtype.

    Raises:
      ValueError: If shapes, dtypes or arguments do not fit together.
    """
    x, dy = jnp.asarray(x), jnp.asarray(dy)
    resolved = _resolve("max_pool_grad", x.shape, window, strides, padding, dilation)
    require_floating("max_pool_grad", x=x, dy=dy)
    _require_output_shape("max_pool_grad", dy.shape, x.shape, resolved)
    x, dy = align_manual_axes(x, dy)
    target = platforms.current_target()
    _, residual = _max_pool_fwd(x, resolved, target)
    return _max_pool_bwd(resolved, target, residual, dy)[0]


@kernel(autodiff.avg_pool)
def avg_pool(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> jax.Array:
    """Returns the mean under every placement of the window.

    dx[n, q, c] = sum of dy[n, p, c] / count[p] over the windows p that cover q.

    Args:
      x: Input `(n, *spatial, c)`, one to three spatial dimensions.
      window: Size of the window, one integer or one per dimension.
      strides: Step between two placements; None means the window's size.
      padding: As for `conv`; padded positions count as zero.
      count_include_pad: Whether padded positions count in the divisor. A window wholly
        in the padding averages to 0 either way.

    Returns:
      `(n, *out_spatial, c)` in x's dtype, summed in float32 or wider.

    Raises:
      ValueError: If shapes or arguments do not fit together.
    """
    x = jnp.asarray(x)
    resolved = _resolve(
        "avg_pool", x.shape, window, strides, padding, 1, is_forward=True
    )
    require_floating("avg_pool", x=x)
    return _avg_pool(x, resolved, count_include_pad)


def _window_means(x, window, count_include_pad):
    wide = x.astype(accumulation_dtype(x.dtype))
    total = xla.sum_pool(wide, window)
    return (total * _reciprocal_counts(window, count_include_pad, total)).astype(
        x.dtype
    )


@functools.partial(custom_vjp, nondiff_argnums=(1, 2))
def _avg_pool(x, window, count_include_pad):
    return _window_means(x, window, count_include_pad)


def _avg_pool_fwd(x, window, count_include_pad):
    return _window_means(x, window, count_include_pad), None


def _avg_pool_bwd(window, count_include_pad, _, dy):
    wide = dy.astype(accumulation_dtype(dy.dtype))
    shares = wide * _reciprocal_counts(window, count_include_pad, wide)
    return (xla.sum_pool_grad(shares, window).astype(dy.dtype),)


_avg_pool.defvjp(_avg_pool_fwd, _avg_pool_bwd)


@kernel(autodiff.avg_pool_grad)
def avg_pool_grad(
    dy: jax.Array,
    window: int | Sequence[int],
    *,
    input_shape: Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> jax.Array:
    """Returns dL/dx of `avg_pool`: each dy is shared equally inside its window.

    Args:
      dy: dL/dy, of the shape that `avg_pool` returns.
      window: As for `avg_pool`, and so the remaining arguments.
      input_shape: The shape of x, `(n, *spatial, c)`.
      strides: As for `avg_pool`.
      padding: As for `avg_pool`.
      count_include_pad: As for `avg_pool`.

    Returns:
      dL/dx, of `input_shape` and dy's dtype.

    Raises:
      ValueError: If shapes or arguments do not fit together.
    """
    dy = jnp.asarray(dy)
    resolved = _resolve("avg_pool_grad", input_shape, window, strides, padding, 1)
    require_floating("avg_pool_grad", dy=dy)
    _require_output_shape("avg_pool_grad", dy.shape, input_shape, resolved)
    return _avg_pool_bwd(resolved, count_include_pad, None, dy)[0]


@kernel(autodiff.global_avg_pool)
def global_avg_pool(x: jax.Array) -> jax.Array:
    """Averages over all spatial positions.

    Every position has the same share, so dx = dy / (number of positions), everywhere.

    Args:
      x: Input `(n, *spatial, c)`, one to three spatial dimensions, none empty.

    Returns:
      `(n, c)` in x's dtype, summed in float32 or wider.

    Raises:
      ValueError: If x has no spatial position or is not floating-point.
    """
    x = jnp.asarray(x)
    if not 3 <= x.ndim <= 5 or 0 in x.shape[1:-1]:
        raise ValueError(
            f"global_avg_pool: got x {x.shape}, expected (n, *spatial, c) with one to "
            "three spatial dimensions, none empty."
        )
    require_floating("global_avg_pool", x=x)
    return _global_avg_pool(x, x.shape[1:-1])


def _spatial_mean(x):
    wide = x.astype(accumulation_dtype(x.dtype))
    return jnp.mean(wide, axis=tuple(range(1, x.ndim - 1))).astype(x.dtype)


@functools.partial(custom_vjp, nondiff_argnums=(1,))
def _global_avg_pool(x, sizes):
    del sizes  # for the backward pass, which does not see x
    return _spatial_mean(x)


def _global_avg_pool_fwd(x, sizes):
    del sizes
    return _spatial_mean(x), None


def _global_avg_pool_bwd(sizes, _, dy):
    batch, channels = dy.shape
    share = (dy / float(math.prod(sizes))).reshape(batch, *(1,) * len(sizes), channels)
    return (jnp.broadcast_to(share, (batch, *sizes, channels)),)


_global_avg_pool.defvjp(_global_avg_pool_fwd, _global_avg_pool_bwd)


def _resolve(
    name, input_shape, window, strides, padding, dilation, *, is_forward=False
):
    """Checks the shapes and returns the window; a gradient's x has a dy of its own."""
    input_shape = tuple(input_shape)
    if not 3 <= len(input_shape) <= 5:
        raise ValueError(
            f"{name}: got an input of shape {input_shape}, expected (n, *spatial, c) "
            "with one to three spatial dimensions."
        )

    def over(sizes):
        return Window.resolve(
            sizes,
            window,
            strides=window if strides is None else strides,
            padding=padding,
            dilation=dilation,
        )

    resolved = over(input_shape[1:-1])
    if (
        0 in resolved.output_sizes
        and looks_like_images_channels_first(input_shape)
        and 0 not in over(input_shape[2:]).output_sizes
    ):
        hint = layout_hint(input_shape, input_shape[1]) if is_forward else ""
        raise ValueError(
            f"{name}: got an input of shape {input_shape}, over whose axes "
            f"{input_shape[1:-1]} the window {resolved.sizes} does not fit{hint}."
        )
    return resolved


def _require_output_shape(name, shape, input_shape, window):
    expected = (input_shape[0], *window.output_sizes, input_shape[-1])
    if shape != expected:
        hint = layout_hint(shape, expected[-1], "dy", fits=expected.__eq__)
        raise ValueError(f"{name}: got dy {shape}, expected {expected}{hint}.")


def _reciprocal_counts(window: Window, count_include_pad, like) -> jax.Array:
    """Returns one over the number of positions each window averages.

    The counts of a box are the product of its sides' counts, one dimension at a time.
    """
    counts = np.ones((1,) * window.rank)
    for axis in range(window.rank):
        size, stride = window.input_sizes[axis], window.strides[axis]
        extent, (low, high) = window.sizes[axis], window.padding[axis]
        starts = (
            np.arange(output_size(size, extent, stride, (low, high))) * stride - low
        )
        if count_include_pad:
            side = np.full(starts.shape, extent)
        else:
            side = np.minimum(starts + extent, size) - np.maximum(starts, 0)
        shape = [1] * window.rank
        shape[axis] = -1
        counts = counts * np.maximum(side, 0).reshape(shape)
    reciprocal = 1.0 / np.maximum(counts, 1.0)
    return jnp.asarray(reciprocal[None, ..., None], like.dtype)
