"""Convolution, normalisation and activation, in the two orders that networks use.

A block receives its convolution, its normalisation and its activation from the model,
which fixes their dtype, epsilon, initializer and mode once: see `layer_factories`.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax

from cnn_jax import geometry
from cnn_jax import kernels as K
from cnn_jax.kernels.activation.fused import is_fused
from cnn_jax.layers.convolution import Conv
from cnn_jax.layers.normalization import BatchNorm
from cnn_jax.layers.types import Activation, ModuleFactory


def normalize_and_activate(
    x: jax.Array,
    norm: nn.Module | None,
    activation: Activation | None,
    pool: geometry.MaxPool | None = None,
) -> jax.Array:
    """Returns `max_pool(activation(norm(x)))`, by one kernel where all allow it.

    Args:
      x: Activations `(n, *spatial, c)`.
      norm: The normalisation, or None.
      activation: Applied after it, or None.
      pool: The max-pooling of the result, or None.
    """
    # A subclass may have a call of its own.
    if type(norm) is BatchNorm and is_fused(activation):
        return norm(x, activation=activation, pool=pool)
    if norm is not None:
        x = norm(x)
    if activation is not None:
        x = activation(x)
    if pool is None:
        return x
    return K.max_pool(x, pool.window, strides=pool.strides, padding=pool.padding)


class ConvNormActivation(nn.Module):
    """A convolution, then a normalisation, an activation and a max-pool, as given.

    Submodules: `conv` and, unless `norm` is None, `norm`.

    Attributes:
      features: The number of output channels.
      kernel_size: The filter's spatial size: an integer, or one for each dimension.
      strides: The step between two placements.
      padding: As in `Conv`; None is `(k - 1) // 2 * dilation` on both sides, which is
        PyTorch's habit and differs from `"SAME"` for even inputs at stride 2.
      dilation: The step between two filter elements.
      groups: How many blocks the channels are split into.
      use_bias: Whether the convolution has a bias; None where no norm follows.
      conv: Makes the convolution.
      norm: Makes the normalisation, or None.
      activation: Applied after the norm, or None; by its own kernel where both allow.
      pool: The max-pooling of the result, or None; likewise.
    """

    features: int
    kernel_size: int | Sequence[int] = 3
    strides: int | Sequence[int] = 1
    padding: geometry.Padding | None = None
    dilation: int | Sequence[int] = 1
    groups: int = 1
    use_bias: bool | None = None
    conv: ModuleFactory = Conv
    norm: ModuleFactory | None = BatchNorm
    activation: Activation | None = K.relu
    pool: geometry.MaxPool | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, *spatial, c)` mapped to `(n, *out, features)`."""
        padding = self.padding
        if padding is None:
            padding = centred_padding(self.kernel_size, self.dilation, x.ndim - 2)
        x = self.conv(
            self.features,
            self.kernel_size,
            strides=self.strides,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
            use_bias=self.norm is None if self.use_bias is None else self.use_bias,
            name="conv",
        )(x)
        norm = None if self.norm is None else self.norm(name="norm")
        return normalize_and_activate(x, norm, self.activation, self.pool)


class NormActivationConv(nn.Module):
    """A normalisation, an activation and a convolution: the "pre-activation" order.

    Submodules: `norm` and `conv`.

    Attributes:
      features: The number of output channels.
      kernel_size: The filter's spatial size: an integer, or one for each dimension.
      strides: The step between two placements.
      padding: As in `ConvNormActivation`.
      groups: How many blocks the channels are split into.
      conv: Makes the convolution, which has no bias.
      norm: Makes the normalisation.
      activation: Applied between them, or None.
    """

    features: int
    kernel_size: int | Sequence[int] = 3
    strides: int | Sequence[int] = 1
    padding: geometry.Padding | None = None
    groups: int = 1
    conv: ModuleFactory = Conv
    norm: ModuleFactory = BatchNorm
    activation: Activation | None = K.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, *spatial, c)` mapped to `(n, *out, features)`."""
        padding = self.padding
        if padding is None:
            padding = centred_padding(self.kernel_size, 1, x.ndim - 2)
        x = normalize_and_activate(x, self.norm(name="norm"), self.activation)
        return self.conv(
            self.features,
            self.kernel_size,
            strides=self.strides,
            padding=padding,
            groups=self.groups,
            use_bias=False,
            name="conv",
        )(x)


def centred_padding(
    kernel_size: int | Sequence[int], dilation: int | Sequence[int], rank: int
) -> tuple[int, ...]:
    """Returns `(k - 1) // 2 * dilation` for each of `rank` dimensions."""
    sizes = geometry.per_dimension(kernel_size, rank, "kernel_size")
    steps = geometry.per_dimension(dilation, rank, "dilation")
    return tuple(
        (size - 1) // 2 * step for size, step in zip(sizes, steps, strict=True)
    )
