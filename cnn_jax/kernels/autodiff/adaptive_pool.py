"""Adaptive average pooling, box by box."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cnn_jax.geometry import per_dimension


def adaptive_avg_pool(x: jax.Array, output_size: int | Sequence[int]) -> jax.Array:
    """Returns the mean of each box, as a slice."""
    outputs = per_dimension(output_size, x.ndim - 2, "output_size")
    inputs = x.shape[1:-1]
    means = [
        jnp.mean(
            x[
                :,
                *(
                    slice(i * n // m, -(-(i + 1) * n // m))
                    for i, n, m in zip(cell, inputs, outputs, strict=True)
                ),
            ],
            axis=tuple(range(1, x.ndim - 1)),
        )
        for cell in itertools.product(*map(range, outputs))
    ]
    return jnp.stack(means, axis=1).reshape(x.shape[0], *outputs, x.shape[-1])
