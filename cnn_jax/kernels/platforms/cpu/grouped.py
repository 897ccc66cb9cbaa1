"""Grouped convolution as a few dense ones.

XLA's CPU backend runs one small matrix product per group and position, and its filter
gradient is 30 to 400 times slower than this one. Here neighbouring groups are merged
until they fill a vector register: one dense convolution with a block-diagonal filter
for each block of merged groups. A non-finite input reaches the other groups of its
block, as it is multiplied by the zeros there.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.geometry import Window

_VECTOR_LANES = 16


def conv(
    dense_fn: Callable[..., jax.Array],
    x: jax.Array,
    w: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Applies `dense_fn`, an ungrouped `conv`, to each block of groups."""
    merged, blocks = _merge(w.shape[-2], groups)
    return jnp.concatenate(
        [
            dense_fn(x_block, _block_diagonal(w_block, merged), window, 1, precision)
            for x_block, w_block in zip(
                jnp.split(x, blocks, -1), jnp.split(w, blocks, -1), strict=True
            )
        ],
        axis=-1,
    )


def conv_input_grad(
    dense_fn: Callable[..., jax.Array],
    dy: jax.Array,
    w: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Applies `dense_fn`, an ungrouped `conv_input_grad`, to each block of groups."""
    return conv(dense_fn, dy, w, window, groups, precision)


def conv_filter_grad(
    dense_fn: Callable[..., jax.Array],
    x: jax.Array,
    dy: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Cuts the groups' filters out of each block's dense gradient."""
    inputs = x.shape[-1] // groups
    merged, blocks = _merge(inputs, groups)
    filters = []
    for x_block, dy_block in zip(
        jnp.split(x, blocks, -1), jnp.split(dy, blocks, -1), strict=True
    ):
        dw = dense_fn(x_block, dy_block, window, 1, precision)
        filters += [
            lax.slice_in_dim(columns, k * inputs, (k + 1) * inputs, axis=-2)
            for k, columns in enumerate(jnp.split(dw, merged, -1))
        ]
    return jnp.concatenate(filters, axis=-1)


def _merge(inputs: int, groups: int) -> tuple[int, int]:
    """Returns how many groups make a block, and how many blocks there are."""
    merged = next(
        count
        for count in range(1, groups + 1)
        if groups % count == 0 and (count * inputs >= _VECTOR_LANES or count == groups)
    )
    return merged, groups // merged


def _block_diagonal(w: jax.Array, groups: int) -> jax.Array:
    """Spreads `(*spatial, i, o)` to `(*spatial, groups * i, o)`, zero elsewhere."""
    inputs = w.shape[-2]
    zero = np.zeros((), w.dtype)
    untouched = ((0, 0, 0),) * (w.ndim - 2)
    return jnp.concatenate(
        [
            lax.pad(
                columns,
                zero,
                (*untouched, (k * inputs, (groups - 1 - k) * inputs, 0), (0, 0, 0)),
            )
            for k, columns in enumerate(jnp.split(w, groups, -1))
        ],
        axis=-1,
    )
