"""Layers with parameters: `flax.linen` modules on `cnn_jax.kernels`.

Parameter names, shapes and conventions are those of `flax.linen` (`kernel`, `bias`,
`scale`; `mean` and `var` in the collection `batch_stats`), so variables move freely
between a layer here and its namesake there. What has no parameters and no state is a
function in `cnn_jax.kernels`, not a layer.
"""

from cnn_jax.layers.branches import BranchConv as BranchConv
from cnn_jax.layers.branches import Branches as Branches
from cnn_jax.layers.classifier import hidden_features as hidden_features
from cnn_jax.layers.conv_norm import ConvNormActivation as ConvNormActivation
from cnn_jax.layers.conv_norm import NormActivationConv as NormActivationConv
from cnn_jax.layers.conv_norm import normalize_and_activate as normalize_and_activate
from cnn_jax.layers.convolution import Conv as Conv
from cnn_jax.layers.convolution import ConvTranspose as ConvTranspose
from cnn_jax.layers.depthwise_separable import DepthwiseSeparable as DepthwiseSeparable
from cnn_jax.layers.factories import layer_factories as layer_factories
from cnn_jax.layers.inverted_bottleneck import (
    FusedInvertedBottleneck as FusedInvertedBottleneck,
)
from cnn_jax.layers.inverted_bottleneck import InvertedBottleneck as InvertedBottleneck
from cnn_jax.layers.inverted_bottleneck import round_channels as round_channels
from cnn_jax.layers.linear import Dense as Dense
from cnn_jax.layers.normalization import BatchNorm as BatchNorm
from cnn_jax.layers.normalization import GroupNorm as GroupNorm
from cnn_jax.layers.normalization import LayerNorm as LayerNorm
from cnn_jax.layers.pooling import ceil_pool as ceil_pool
from cnn_jax.layers.preactivation import (
    PreactivationBasicBlock as PreactivationBasicBlock,
)
from cnn_jax.layers.preactivation import (
    PreactivationBottleneck as PreactivationBottleneck,
)
from cnn_jax.layers.regularization import DropBlock as DropBlock
from cnn_jax.layers.regularization import Dropout as Dropout
from cnn_jax.layers.regularization import SpatialDropout as SpatialDropout
from cnn_jax.layers.regularization import StochasticDepth as StochasticDepth
from cnn_jax.layers.remat import apply_stage as apply_stage
from cnn_jax.layers.remat import rematerialized as rematerialized
from cnn_jax.layers.residual import BasicBlock as BasicBlock
from cnn_jax.layers.residual import Bottleneck as Bottleneck
from cnn_jax.layers.residual import projection_shortcut as projection_shortcut
from cnn_jax.layers.residual import zero_padded_shortcut as zero_padded_shortcut
from cnn_jax.layers.space_to_depth import SpaceToDepthConv as SpaceToDepthConv
from cnn_jax.layers.squeeze_excite import SqueezeExcite as SqueezeExcite
from cnn_jax.layers.statistics import frozen_statistics as frozen_statistics
from cnn_jax.layers.statistics import statistics_scope as statistics_scope
from cnn_jax.layers.tracing import LayerCall as LayerCall
from cnn_jax.layers.tracing import abstract_variables as abstract_variables
from cnn_jax.layers.tracing import init_variables as init_variables
from cnn_jax.layers.tracing import trace_layers as trace_layers
from cnn_jax.layers.types import ModuleFactory as ModuleFactory
