"""Pure functions for convolutional networks, each with a VJP derived by hand.

Arrays are `(n, *spatial, c)` and filters `(*spatial, in / groups, out)`, with one to
three spatial dimensions. Every function here is reverse-differentiable to any order
and works under jit, vmap, scan, checkpoint and shard_map. Forward mode is not defined
for a custom VJP: `autodiff` holds the same operations as plain lax.
"""

from cnn_jax.kernels import autodiff, textbook
from cnn_jax.kernels.activation import (
    gelu,
    hard_sigmoid,
    hard_swish,
    relu,
    relu6,
    sigmoid,
    silu,
)
from cnn_jax.kernels.adaptive_pool import adaptive_avg_pool
from cnn_jax.kernels.batch_norm import batch_norm, batch_norm_inference
from cnn_jax.kernels.conv import (
    conv,
    conv_bias_grad,
    conv_filter_grad,
    conv_input_grad,
)
from cnn_jax.kernels.conv_general import conv_general_dilated
from cnn_jax.kernels.conv_transpose import conv_transpose
from cnn_jax.kernels.dense import dense
from cnn_jax.kernels.dropout import (
    drop_block,
    dropout,
    spatial_dropout,
    stochastic_depth,
)
from cnn_jax.kernels.group_norm import group_norm
from cnn_jax.kernels.layer_norm import layer_norm
from cnn_jax.kernels.local_response_norm import local_response_norm
from cnn_jax.kernels.loss import softmax_cross_entropy
from cnn_jax.kernels.platforms import target_platform
from cnn_jax.kernels.pool import (
    avg_pool,
    avg_pool_grad,
    global_avg_pool,
    max_pool,
    max_pool_grad,
)
from cnn_jax.kernels.squeeze_excite import squeeze_excite

__all__ = [
    "adaptive_avg_pool",
    "autodiff",
    "avg_pool",
    "avg_pool_grad",
    "batch_norm",
    "batch_norm_inference",
    "conv",
    "conv_bias_grad",
    "conv_filter_grad",
    "conv_general_dilated",
    "conv_input_grad",
    "conv_transpose",
    "dense",
    "drop_block",
    "dropout",
    "gelu",
    "global_avg_pool",
    "group_norm",
    "hard_sigmoid",
    "hard_swish",
    "layer_norm",
    "local_response_norm",
    "max_pool",
    "max_pool_grad",
    "relu",
    "relu6",
    "sigmoid",
    "silu",
    "softmax_cross_entropy",
    "spatial_dropout",
    "squeeze_excite",
    "stochastic_depth",
    "target_platform",
    "textbook",
]
