"""The channel gate."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import dtypes

from cnn_jax import kernels as K
from cnn_jax.kernels.activation.fused import is_fused
from cnn_jax.layers.layout import check_layout
from cnn_jax.layers.linear import Dense, DenseParameters
from cnn_jax.layers.types import Activation, ModuleFactory


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from all channels' means (Hu et al. 2017).

    `x * gate(expand(activation(squeeze(mean of x))))`, where `squeeze` and `expand` are
    the submodules: fully connected layers with a bias. (torchvision stores them as 1x1
    convolutions: the same numbers with two more dimensions of size 1.)

    Attributes:
      squeezed_features: The number of features between the two layers; None takes
        `squeeze_ratio` of the channels, rounded down, but at least one.
      squeeze_ratio: Those features as a fraction of the channels.
      dense: Makes the two layers. Where it makes our `Dense`, and activation and gate
        are known to `kernels.squeeze_excite`, that computes the whole.
      activation: Applied to the squeezed features.
      gate: Maps the expanded features to the factors.
    """

    squeezed_features: int | None = None
    squeeze_ratio: float = 1 / 16
    dense: ModuleFactory = Dense
    activation: Activation = K.relu
    gate: Activation = K.sigmoid

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `(n, *spatial, c)` with its channels scaled."""
        check_layout(self, x, "squeeze/kernel", lambda shape: shape[0])
        channels = x.shape[-1]
        squeezed_features = self.squeezed_features
        if squeezed_features is None:
            squeezed_features = max(1, int(channels * self.squeeze_ratio))
        parameters = _parameters_factory(self.dense)
        if parameters and is_fused(self.activation) and is_fused(self.gate):
            squeeze = parameters(squeezed_features, name="squeeze")(channels)
            expand = parameters(channels, name="expand")(squeezed_features)
            operands = dtypes.promote_dtype(x, *_biased(*squeeze), *_biased(*expand))
            return K.squeeze_excite(
                *operands, activation=self.activation, gate=self.gate
            )
        means = K.global_avg_pool(x)
        squeezed = self.dense(squeezed_features, name="squeeze")(means)
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
