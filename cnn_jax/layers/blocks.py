"""Blocks that several families share.

A block receives its convolution, its normalisation and its activation from the model,
which fixes their dtype, epsilon, initializer and mode once with `functools.partial`:

    norm = functools.partial(BatchNorm, use_running_average=not train, dtype=dtype)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import dtypes

from cnn_jax import geometry
from cnn_jax import kernels as K
from cnn_jax.kernels.activation.fused import is_fused
from cnn_jax.layers.convolution import Conv
from cnn_jax.layers.linear import Dense, DenseParameters
from cnn_jax.layers.normalization import BatchNorm
from cnn_jax.layers.types import Activation, ModuleFactory


class ConvNormActivation(nn.Module):
    """A convolution, a normalisation and an activation, the last two optional.

    Submodules: `conv` and, unless `norm` is None, `norm`.

    Attributes:
      features: The number of output channels.
      kernel_size: The filter's spatial size: an integer, or one for each dimension.
      strides: The step between two placements.
      padding: As in `Conv`; None is `(k - 1) // 2 * dilation` on both sides, which is
        PyTorch's habit and differs from `"SAME"` for even inputs at stride 2.
      dilation: The step between two filter elements.
      groups: How many blocks the channels are split into.
      conv: Makes the convolution; without a norm it has a bias, with one it has none.
      norm: Makes the normalisation, or None.
      activation: Applied last, or None; by the norm's own kernel where both allow.
    """

    features: int
    kernel_size: int | Sequence[int] = 3
    strides: int | Sequence[int] = 1
    padding: geometry.Padding | None = None
    dilation: int | Sequence[int] = 1
    groups: int = 1
    conv: ModuleFactory = Conv
    norm: ModuleFactory | None = BatchNorm
    activation: Activation | None = K.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, *spatial, c)` mapped to `(n, *out, features)`."""
        padding = self.padding
        if padding is None:
            rank = x.ndim - 2
            sizes = geometry.per_dimension(self.kernel_size, rank, "kernel_size")
            steps = geometry.per_dimension(self.dilation, rank, "dilation")
            padding = tuple(
                (size - 1) // 2 * step for size, step in zip(sizes, steps, strict=True)
            )
        x = self.conv(
            self.features,
            self.kernel_size,
            strides=self.strides,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
            use_bias=self.norm is None,
            name="conv",
        )(x)
        if self.norm is not None:
            norm = self.norm(name="norm")
            # A subclass may have a call of its own.
            if type(norm) is BatchNorm and is_fused(self.activation):
                return norm(x, activation=self.activation)
            x = norm(x)
        return x if self.activation is None else self.activation(x)


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from all channels' means (Hu et al. 2017).

    `x * gate(expand(activation(squeeze(mean of x))))`, where `squeeze` and `expand` are
    the submodules: fully connected layers with a bias. (torchvision stores them as 1x1
    convolutions: the same numbers with two more dimensions of size 1.)

    Attributes:
      squeezed_features: The number of features between the two layers.
      dense: Makes the two layers. Where it makes our `Dense`, and activation and gate
        are known to `kernels.squeeze_excite`, that computes the whole.
      activation: Applied to the squeezed features.
      gate: Maps the expanded features to the factors.
    """

    squeezed_features: int
    dense: ModuleFactory = Dense
    activation: Activation = K.relu
    gate: Activation = K.sigmoid

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, *spatial, c)` with its channels scaled."""
        channels = x.shape[-1]
        parameters = _parameters_factory(self.dense)
        if parameters and is_fused(self.activation) and is_fused(self.gate):
            squeeze = parameters(self.squeezed_features, name="squeeze")(channels)
            expand = parameters(channels, name="expand")(self.squeezed_features)
            operands = dtypes.promote_dtype(x, *_biased(*squeeze), *_biased(*expand))
            return K.squeeze_excite(
                *operands, activation=self.activation, gate=self.gate
            )
        means = K.global_avg_pool(x)
        squeezed = self.dense(self.squeezed_features, name="squeeze")(means)
        expanded = self.dense(channels, name="expand")(self.activation(squeezed))
        factors = self.gate(expanded)
        return x * factors.reshape(x.shape[0], *(1,) * (x.ndim - 2), channels)


def _parameters_factory(dense: ModuleFactory) -> ModuleFactory | None:
    """Makes the parameters of what `dense` makes, if that is known to be a `Dense`."""
    if dense is Dense:
        return DenseParameters
    if isinstance(dense, functools.partial) and dense.func is Dense:
        return functools.partial(DenseParameters, *dense.args, **dense.keywords)
    return None


def _biased(kernel, bias):
    if bias is None:
        bias = jnp.zeros(kernel.shape[-1:], kernel.dtype)
    return kernel, bias


class InvertedBottleneck(nn.Module):
    """Expand, filter each channel, project: the block of MobileNetV2 (Sandler 2018).

    Narrow tensors run between blocks and wide ones only inside. The shortcut joins the
    narrow ends, where strides and channels allow it; the projection has no activation.

    Submodules: `expand` (absent where the input already has `hidden_features`
    channels), `depthwise`, `squeeze_excite`, `project`, `stochastic_depth`.

    Attributes:
      features: The number of output channels.
      hidden_features: The number of channels inside.
      kernel_size: The depthwise filter's size.
      strides: The depthwise convolution's strides.
      conv: Makes the convolutions.
      norm: Makes the normalisations.
      activation: Applied after the expansion and after the depthwise convolution.
      squeeze_excite: Makes the channel gate, or None.
      stochastic_depth: Makes the layer that drops the branch before it joins the
        shortcut, or None.
    """

    features: int
    hidden_features: int
    kernel_size: int | Sequence[int] = 3
    strides: int = 1
    conv: ModuleFactory = Conv
    norm: ModuleFactory = BatchNorm
    activation: Activation = K.silu
    squeeze_excite: ModuleFactory | None = None
    stochastic_depth: ModuleFactory | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, *spatial, c)` mapped to `(n, *out, features)`."""
        shortcut = x
        hidden = self.hidden_features
        joins = self.strides == 1 and x.shape[-1] == self.features
        make = {"conv": self.conv, "norm": self.norm}
        if x.shape[-1] != hidden:
            x = ConvNormActivation(
                hidden, 1, activation=self.activation, **make, name="expand"
            )(x)
        x = ConvNormActivation(
            hidden,
            self.kernel_size,
            strides=self.strides,
            groups=hidden,
            activation=self.activation,
            **make,
            name="depthwise",
        )(x)
        if self.squeeze_excite is not None:
            x = self.squeeze_excite(name="squeeze_excite")(x)
        x = ConvNormActivation(
            self.features, 1, activation=None, **make, name="project"
        )(x)
        if not joins:
            return x
        if self.stochastic_depth is not None:
            x = self.stochastic_depth(name="stochastic_depth")(x)
        return x + shortcut
