"""Convolution as one `lax.conv_general_dilated`, and its transposes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict, Unpack

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.geometry import Padding, Window
from cnn_jax.kernels import windowed
from cnn_jax.kernels.autodiff.vectors import along_channels, type_beside

_LETTERS = "DHW"


class ConvGeometry(TypedDict, total=False):
    """The keywords of `conv`, which its gradients take, too."""

    strides: int | Sequence[int]
    padding: Padding
    dilation: int | Sequence[int]
    groups: int
    precision: lax.PrecisionLike


def conv(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Convolves by one `lax.conv_general_dilated`; see `kernels.conv`.

    Args:
      x: Input `(n, *spatial, c)`, one to three spatial dimensions.
      w: Filters `(*window, c / groups, o)`.
      b: Bias `(o,)` or None.
      strides: Step of the window.
      padding: "SAME", "VALID", an integer, or one entry per dimension.
      dilation: Step inside the window.
      groups: How many groups the channels fall into.
      precision: As in `lax.conv_general_dilated`.

    Returns:
      Output `(n, *spatial, o)`.
    """
    window = Window.resolve(
        x.shape[1:-1],
        w.shape[:-2],
        strides=strides,
        padding=padding,
        dilation=dilation,
    )
    spatial = _LETTERS[-window.rank :]
    y = windowed.conv_general_dilated(
        x,
        w,
        window_strides=window.strides,
        padding=window.padding,
        rhs_dilation=window.dilation,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        feature_group_count=groups,
        precision=precision,
    )
    return y if b is None else y + along_channels(b, y)


def conv_input_grad(
    dy: jax.Array,
    w: jax.Array,
    *,
    input_shape: Sequence[int],
    **geometry: Unpack[ConvGeometry],
) -> jax.Array:
    """Applies the transpose of `conv` in x, by `jax.linear_transpose`.

    Args:
      dy: The output's cotangent `(n, *spatial, o)`.
      w: Filters `(*window, c / groups, o)`.
      input_shape: The shape of x.
      **geometry: `conv`'s keywords.

    Returns:
      The input's cotangent, of `input_shape`.
    """
    x = type_beside(dy, tuple(input_shape), axes=(0,))
    (dx,) = jax.linear_transpose(lambda x: conv(x, w, **geometry), x)(dy)
    return dx


def conv_filter_grad(
    x: jax.Array,
    dy: jax.Array,
    *,
    filter_shape: Sequence[int],
    **geometry: Unpack[ConvGeometry],
) -> jax.Array:
    """Applies the transpose of `conv` in w, by `jax.linear_transpose`.

    Args:
      x: Input `(n, *spatial, c)`.
      dy: The output's cotangent `(n, *spatial, o)`.
      filter_shape: The shape of w.
      **geometry: `conv`'s keywords.

    Returns:
      The filters' cotangent, of `filter_shape`.
    """
    w = type_beside(x, tuple(filter_shape), axes=())
    (dw,) = jax.linear_transpose(lambda w: conv(x, w, **geometry), w)(dy)
    return dw


def conv_bias_grad(dy: jax.Array) -> jax.Array:
    """Applies the transpose of adding a bias, by `jax.linear_transpose`.

    Args:
      dy: The output's cotangent `(n, *spatial, o)`.

    Returns:
      The bias's cotangent `(o,)`.
    """
    b = type_beside(dy, dy.shape[-1:], axes=(-1,))
    like = type_beside(dy, dy.shape, axes=tuple(range(dy.ndim)))
    (db,) = jax.linear_transpose(
        lambda b: jnp.broadcast_to(
            along_channels(b, dy), dy.shape, out_sharding=like.sharding
        ),
        b,
    )(dy)
    return db
