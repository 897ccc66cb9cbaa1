"""Layers with parameters: `flax.linen` modules on `cnn_jax.kernels`.

Parameter names, shapes and conventions are those of `flax.linen` (`kernel`, `bias`,
`scale`; `mean` and `var` in the collection `batch_stats`), so variables move freely
between a layer here and its namesake there. What has no parameters and no state is a
function in `cnn_jax.kernels`, not a layer.
"""

from cnn_jax.layers.blocks import ConvNormActivation as ConvNormActivation
from cnn_jax.layers.blocks import InvertedBottleneck as InvertedBottleneck
from cnn_jax.layers.blocks import SqueezeExcite as SqueezeExcite
from cnn_jax.layers.convolution import Conv as Conv
from cnn_jax.layers.convolution import ConvTranspose as ConvTranspose
from cnn_jax.layers.linear import Dense as Dense
from cnn_jax.layers.normalization import BatchNorm as BatchNorm
from cnn_jax.layers.normalization import GroupNorm as GroupNorm
from cnn_jax.layers.normalization import LayerNorm as LayerNorm
from cnn_jax.layers.regularization import Dropout as Dropout
from cnn_jax.layers.regularization import StochasticDepth as StochasticDepth
from cnn_jax.layers.tracing import LayerCall as LayerCall
from cnn_jax.layers.tracing import trace_layers as trace_layers
from cnn_jax.layers.types import ModuleFactory as ModuleFactory
