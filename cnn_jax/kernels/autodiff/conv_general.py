"""The general convolution: `lax.conv_general_dilated`, cropping beforehand."""

from __future__ import annotations

from typing import Any

import jax

from cnn_jax.kernels import windowed


def conv_general_dilated(
    lhs: jax.Array, rhs: jax.Array, *arguments: Any, **options: Any
) -> jax.Array:
    """Calls `lax.conv_general_dilated`, with all of its arguments.

    Args:
      lhs: Input, in the layout that the dimension numbers describe.
      rhs: Filters, likewise.
      *arguments: As in `lax.conv_general_dilated`.
      **options: Likewise.

    Returns:
      Output, in the layout that the dimension numbers describe.
    """
    return windowed.conv_general_dilated(lhs, rhs, *arguments, **options)
