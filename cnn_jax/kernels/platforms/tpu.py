"""Forms of convolutions that a TPU computes in fewer cycles than XLA's own.

A depthwise convolution has one multiply-add for each input and tap, where a matrix unit
works on 128 channels at a time. The compiler gives a narrow one far more cycles than
the dense convolution of the same shape, whose filter is the depthwise one on the
diagonal and zero elsewhere: `experiments/benchmarks/steps_tpu_trials.py` compares them.
The zeros change no finite number. A non-finite input reaches the other channels, as it
is multiplied by the zeros there.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.geometry import Window
from cnn_jax.kernels.platforms import xla

_MOST_CHANNELS = 32
"""With 96 channels, the next width that networks have, nothing is gained."""

_LEAST_IMAGES = 32
"""The number of images from which the gradient of the input is better
dense. Of 112 x 112 pixels and 32 channels it takes more cycles with 8, as
many with 32, and fewer with 64."""


def conv(
    x: jax.Array,
    w: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Correlates `x` with the filters `w`."""
    if _is_narrow(w, window, groups):
        return xla.conv(x, _on_diagonal(w), window, 1, precision)
    return xla.conv(x, w, window, groups, precision)


def conv_input_grad(
    dy: jax.Array,
    w: jax.Array,
    window: Window,
    groups: int,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """Returns dL/dx of `conv`."""
    if _is_narrow(w, window, groups) and dy.shape[0] >= _LEAST_IMAGES:
        return xla.conv_input_grad(dy, _on_diagonal(w), window, 1, precision)
    return xla.conv_input_grad(dy, w, window, groups, precision)


def _is_narrow(w, window, groups):
    """Returns whether this is a depthwise convolution that is better dense."""
    return (
        1 < groups <= _MOST_CHANNELS
        and w.shape[-2:] == (1, groups)
        and window.rank == 2
        and max(window.strides) == 1
    )


def _on_diagonal(w):
    """Spreads filters `(*spatial, 1, c)` to `(*spatial, c, c)`, zero elsewhere."""
    channels = w.shape[-1]
    is_own = jnp.eye(channels, dtype=bool).reshape(
        (1,) * (w.ndim - 2) + (channels, channels)
    )
    return jnp.where(is_own, w, jnp.zeros((), w.dtype))
