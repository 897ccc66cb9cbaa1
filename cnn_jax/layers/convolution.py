"""Convolution and transposed convolution with a learned filter."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import dtypes

from cnn_jax import geometry
from cnn_jax import kernels as K
from cnn_jax.layers.layout import check_layout
from cnn_jax.layers.types import Dtype, Initializer


class Conv(nn.Module):
    """Convolves `(n, *spatial, c)` with a learned filter, in 1 to 3 dimensions.

    Parameters: `kernel` `(*kernel_size, c / groups, features)` and, with `use_bias`,
    `bias` `(features,)`: those of `flax.linen.Conv`, whose `input_dilation` and
    `mask` are absent and whose `kernel_dilation` and `feature_group_count` are called
    `dilation` and `groups` here. An integer `kernel_size` is that size in every
    spatial dimension of the input (in Flax it means a one-dimensional filter).

    Attributes:
      features: The number of output channels.
      kernel_size: The filter's spatial size: an integer, or one for each dimension.
      strides: The step between two placements, likewise.
      padding: `"SAME"`, `"VALID"`, an integer, or one entry for each dimension: an
        integer or a `(low, high)` pair.
      dilation: The step between two filter elements.
      groups: How many blocks the channels are split into, each convolved on its own.
        `groups=c` is a depthwise convolution.
      use_bias: Whether to add a bias.
      dtype: The dtype of the computation and of the output; inputs and parameters are
        cast to it. None takes the one that they promote to.
      param_dtype: The dtype in which the parameters are stored.
      precision: The matrix unit's precision, as in `jax.lax.conv_general_dilated`.
      kernel_init: Initializer of the filter.
      bias_init: Initializer of the bias.
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: geometry.Padding = "SAME"
    dilation: int | Sequence[int] = 1
    groups: int = 1
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: jax.lax.PrecisionLike = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the convolution of `x` `(n, *spatial, c)`: `(n, *out, features)`.

        Raises:
          ValueError: If `x` has not 3 to 5 dimensions, `kernel_size` has another
            number of dimensions, or `groups` does not divide the channels.
        """
        x, kernel, bias = conv_operands(self, x)
        return K.conv(
            x,
            kernel,
            bias,
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            precision=self.precision,
        )


class ConvTranspose(nn.Module):
    """Spreads `(n, *spatial, c)` by its strides and convolves it, in 1 to 3 dimensions.

    Parameters: `kernel` `(*kernel_size, c / groups, features)` and, with `use_bias`,
    `bias` `(features,)`: those of `flax.linen.ConvTranspose` with
    `transpose_kernel=False`, whose `mask` and circular padding are absent and whose
    `kernel_dilation` is called `dilation` here. An integer `kernel_size` is that size
    in every spatial dimension of the input (in Flax it means a one-dimensional filter).

    Attributes:
      features: The number of output channels.
      kernel_size: The filter's spatial size: an integer, or one for each dimension.
      strides: By how much the output is longer than the input, likewise.
      padding: `"SAME"`, `"VALID"`, or what is added to the spread input: an integer,
        or one entry for each dimension, an integer or a `(low, high)` pair.
      dilation: The step between two filter elements.
      groups: How many blocks the channels are split into, each convolved on its own.
      use_bias: Whether to add a bias.
      dtype: The dtype of the computation and of the output; inputs and parameters are
        cast to it. None takes the one that they promote to.
      param_dtype: The dtype in which the parameters are stored.
      precision: The matrix unit's precision, as in `jax.lax.conv_general_dilated`.
      kernel_init: Initializer of the filter.
      bias_init: Initializer of the bias.
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: geometry.Padding = "SAME"
    dilation: int | Sequence[int] = 1
    groups: int = 1
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: jax.lax.PrecisionLike = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the transposed convolution of `x`: `(n, *out, features)`.

        Raises:
          ValueError: As `Conv` does.
        """
        x, kernel, bias = conv_operands(self, x)
        return K.conv_transpose(
            x,
            kernel,
            bias,
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            precision=self.precision,
        )


def conv_operands(
    layer: Conv | ConvTranspose, x: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Checks `x`, creates the layer's parameters and casts all to its dtype."""
    rank = x.ndim - 2
    if not 1 <= rank <= geometry.MAX_RANK:
        raise ValueError(
            f"x: got shape {x.shape}, expected (n, *spatial, channels) with 1 to "
            f"{geometry.MAX_RANK} spatial dimensions."
        )
    sizes = geometry.per_dimension(layer.kernel_size, rank, "kernel_size")
    channels, features, groups = x.shape[-1], layer.features, layer.groups
    check_layout(layer, x, "kernel", lambda shape: shape[-2] * groups)
    if groups < 1 or channels % groups or features % groups:
        raise ValueError(
            f"groups: got {groups}, expected a divisor of the {channels} input "
            f"channels and of the {features} features."
        )
    shape = (*sizes, channels // groups, features)
    kernel = layer.param("kernel", layer.kernel_init, shape, layer.param_dtype)
    bias = None
    if layer.use_bias:
        bias = layer.param("bias", layer.bias_init, (features,), layer.param_dtype)
    x, kernel, bias = dtypes.promote_dtype(x, kernel, bias, dtype=layer.dtype)
    return x, kernel, bias
