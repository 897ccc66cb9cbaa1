"""Transposed convolution as `lax.conv_transpose`."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax import lax

from cnn_jax.geometry import (
    Padding,
    explicit_transposed_padding,
    per_dimension,
)
from cnn_jax.kernels import windowed
from cnn_jax.kernels.autodiff.vectors import along_channels

_LETTERS = "DHW"


def conv_transpose(
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
    """Calls `lax.conv_transpose`, or its equal with groups or explicit padding.

    Args:
      x: Input `(n, *spatial, c)`, one to three spatial dimensions.
      w: Filters `(*window, c / groups, o)`.
      b: Bias `(o,)` or None.
      strides: By how much the input is spread.
      padding: "SAME", "VALID", an integer, or one entry per dimension.
      dilation: Step inside the window.
      groups: How many groups the channels fall into.
      precision: As in `lax.conv_transpose`.

    Returns:
      Output `(n, *spatial, o)`.
    """
    rank = x.ndim - 2
    strides = per_dimension(strides, rank, "strides")
    dilation = per_dimension(dilation, rank, "dilation")
    pairs = explicit_transposed_padding(padding, w.shape[:-2], strides, dilation)
    spatial = _LETTERS[-rank:]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    # By lax where it resolves the names itself, so that ours can be compared with it.
    if groups == 1 and isinstance(padding, str):
        y = lax.conv_transpose(
            x,
            w,
            strides,
            padding.upper(),
            rhs_dilation=dilation,
            dimension_numbers=numbers,
            precision=precision,
        )
    else:
        y = windowed.conv_general_dilated(
            x,
            w,
            window_strides=(1,) * rank,
            padding=pairs,
            lhs_dilation=strides,
            rhs_dilation=dilation,
            dimension_numbers=numbers,
            feature_group_count=groups,
            precision=precision,
        )
    return y if b is None else y + along_channels(b, y)
