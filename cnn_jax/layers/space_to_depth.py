"""A strided convolution as one without strides on fewer, deeper pixels.

The first convolution of an ImageNet network reads three channels, and a matrix unit
128 wide is then mostly idle. Blocks of `s x s` pixels, moved into the channels, give it
`3 s^2` of them, and the strides are gone. The filter is padded with zeros to a multiple
of `s` and cut into the same blocks:

    y[p, f] = sum_k x[s p + k - l] w[k, f]
            = sum_j sum_r x[s (p + j) + r - l] w[s j + r, f],    k = s j + r, 0 <= r < s

so the sums are the same, taken in another order. (Space-to-depth is how MLPerf's
ResNet-50 feeds TPUs.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import geometry
from cnn_jax import kernels as K
from cnn_jax.layers.convolution import Conv, conv_operands


class SpaceToDepthConv(Conv):
    """`Conv`, with its parameters and its result, computed by space-to-depth.

    Attributes:
      features: As in `Conv`, and so the others; `dilation` and `groups` must be 1.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the convolution of `x` `(n, *spatial, c)`: `(n, *out, features)`.

        Raises:
          ValueError: As `Conv` does, and if the filter is dilated or grouped.
        """
        x, kernel, bias = conv_operands(self, x)
        window = geometry.Window.resolve(
            x.shape[1:-1],
            kernel.shape[:-2],
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
        )
        if self.groups != 1 or max(window.dilation) > 1:
            raise ValueError(
                f"SpaceToDepthConv: got groups {self.groups} and dilation "
                f"{window.dilation}, expected 1; use Conv."
            )
        # All that any window touches, with the filter rounded up to whole blocks.
        x_padding, kernel_padding = [], []
        for n, k, step, (low, _), out in zip(
            window.input_sizes,
            window.sizes,
            window.strides,
            window.padding,
            window.output_sizes,
            strict=True,
        ):
            rounded = math.ceil(k / step) * step
            kernel_padding.append((0, rounded - k, 0))
            x_padding.append((low, (out - 1) * step + rounded - n - low, 0))
        # lax.pad crops where an amount is negative.
        keep, zero = (0, 0, 0), jnp.zeros((), x.dtype)
        x = jax.lax.pad(x, zero, (keep, *x_padding, keep))
        kernel = jax.lax.pad(kernel, zero, (*kernel_padding, keep, keep))
        return K.conv(
            _blocks_to_channels(x, 1, window.strides),
            _blocks_to_channels(kernel, 0, window.strides),
            bias,
            padding="VALID",
            precision=self.precision,
        )


def _blocks_to_channels(x: jax.Array, first: int, strides: Sequence[int]) -> jax.Array:
    """Moves blocks of the axes from `first` on into the axis that follows them."""
    rank = len(strides)
    leading, spatial = x.shape[:first], x.shape[first : first + rank]
    channels, *trailing = x.shape[first + rank :]
    split = [
        size
        for length, step in zip(spatial, strides, strict=True)
        for size in (length // step, step)
    ]
    x = x.reshape(*leading, *split, channels, *trailing)
    outer = range(first, first + 2 * rank, 2)
    inner = range(first + 1, first + 2 * rank, 2)
    rest = range(first + 2 * rank, x.ndim)
    x = x.transpose(*range(first), *outer, *inner, *rest)
    return x.reshape(*leading, *split[::2], channels * math.prod(strides), *trailing)
