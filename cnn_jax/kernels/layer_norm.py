"""Layer normalisation and its gradients, derived by hand.

Layer norm is group norm with one group and each position an example of its own; the
derivation and the custom VJP are in `kernels.group_norm`.

Source: Ba, Kiros and Hinton, "Layer Normalization", 2016.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cnn_jax.kernels import autodiff
from cnn_jax.kernels.group_norm import normalize_sets
from cnn_jax.kernels.kernel import kernel
from cnn_jax.kernels.operands import (
    align_manual_axes,
    require_channels,
    require_epsilon,
    require_floating,
    to_array,
)
from cnn_jax.kernels.platforms import current_target


@kernel(autodiff.layer_norm)
def layer_norm(
    x: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    *,
    epsilon: float,
) -> jax.Array:
    """Normalises the last axis at every position by its own mean and variance.

    dx = r (g - mean(g) - xhat mean(g xhat)) with g = scale dy and means over the last
    axis, dscale = sum dy xhat, dbias = sum dy; see `kernels.group_norm` for the steps.

    Args:
      x: `(..., c)`.
      scale: `(c,)`, of x's dtype or float32 (float64 for float64 x); None for ones.
      bias: `(c,)`, likewise; None for zeros.
      epsilon: Added to the biased variance, at least 0.

    Returns:
      The shape and dtype of `x`; computed in float32 or wider.

    Raises:
      ValueError: If shapes or dtypes do not fit, there are no channels, or epsilon is
        none of the statistics' dtype.
    """
    x, scale, bias = jnp.asarray(x), to_array(scale), to_array(bias)
    require_floating("layer_norm", x=x)
    if x.ndim < 1 or x.shape[-1] == 0:
        raise ValueError(
            f"layer_norm: got x {x.shape}, expected (..., c) with at least one channel "
            "to take the mean of."
        )
    require_channels("layer_norm", x, scale=scale, bias=bias)
    return normalize_sets(
        *align_manual_axes(x, scale, bias),
        1,
        (),
        require_epsilon("layer_norm", epsilon, x),
        current_target(),
    )
