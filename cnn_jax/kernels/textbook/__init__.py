"""Every kernel and its gradient as NumPy loops in float64: to be read, not to be run.

This is the derivation itself: each docstring states the formula, and the loops below
follow its indices. The kernels are proven against these functions.

Notation. `n` counts examples, `o` output positions, `t` taps of the window, `p` input
positions, `i` and `c` channels in and out; positions and taps are tuples with one entry
for each spatial dimension. With stride s, dilation d and the padding `low` in front,
tap t of the window at output position o falls on the input position

    p = o s + t d - low                                                          (1)

which may be in the padding. A gradient function takes the cotangent `dy` of the
output (the derivative of a loss by y) and returns that of each argument.
"""

from cnn_jax.kernels.textbook.activation import (
    gelu,
    gelu_grad,
    hard_sigmoid,
    hard_sigmoid_grad,
    hard_swish,
    hard_swish_grad,
    relu,
    relu6,
    relu6_grad,
    relu_grad,
    sigmoid,
    sigmoid_grad,
    silu,
    silu_grad,
)
from cnn_jax.kernels.textbook.adaptive_pool import (
    adaptive_avg_pool,
    adaptive_avg_pool_grad,
)
from cnn_jax.kernels.textbook.batch_norm import (
    batch_norm,
    batch_norm_grad,
    batch_norm_inference,
    batch_norm_inference_grad,
)
from cnn_jax.kernels.textbook.conv import (
    conv,
    conv_bias_grad,
    conv_filter_grad,
    conv_input_grad,
)
from cnn_jax.kernels.textbook.conv_general import (
    conv_general_dilated,
    conv_general_dilated_grad,
)
from cnn_jax.kernels.textbook.conv_transpose import (
    conv_transpose,
    conv_transpose_grad,
)
from cnn_jax.kernels.textbook.dense import (
    dense,
    dense_grad,
)
from cnn_jax.kernels.textbook.dropout import (
    drop_block,
    drop_block_grad,
    dropout,
    dropout_grad,
    spatial_dropout,
    spatial_dropout_grad,
    stochastic_depth,
    stochastic_depth_grad,
)
from cnn_jax.kernels.textbook.group_norm import (
    group_norm,
    group_norm_grad,
)
from cnn_jax.kernels.textbook.layer_norm import (
    layer_norm,
    layer_norm_grad,
)
from cnn_jax.kernels.textbook.local_response_norm import (
    local_response_norm,
    local_response_norm_grad,
)
from cnn_jax.kernels.textbook.loops import (
    channel_runs,
    placements,
    positions,
)
from cnn_jax.kernels.textbook.loss import (
    softmax_cross_entropy,
    softmax_cross_entropy_grad,
)
from cnn_jax.kernels.textbook.pool import (
    avg_pool,
    avg_pool_grad,
    global_avg_pool,
    global_avg_pool_grad,
    max_pool,
    max_pool_grad,
)
from cnn_jax.kernels.textbook.squeeze_excite import (
    squeeze_excite,
    squeeze_excite_grad,
)

__all__ = [
    "adaptive_avg_pool",
    "adaptive_avg_pool_grad",
    "avg_pool",
    "avg_pool_grad",
    "batch_norm",
    "batch_norm_grad",
    "batch_norm_inference",
    "batch_norm_inference_grad",
    "channel_runs",
    "conv",
    "conv_bias_grad",
    "conv_filter_grad",
    "conv_general_dilated",
    "conv_general_dilated_grad",
    "conv_input_grad",
    "conv_transpose",
    "conv_transpose_grad",
    "dense",
    "dense_grad",
    "drop_block",
    "drop_block_grad",
    "dropout",
    "dropout_grad",
    "gelu",
    "gelu_grad",
    "global_avg_pool",
    "global_avg_pool_grad",
    "group_norm",
    "group_norm_grad",
    "hard_sigmoid",
    "hard_sigmoid_grad",
    "hard_swish",
    "hard_swish_grad",
    "layer_norm",
    "layer_norm_grad",
    "local_response_norm",
    "local_response_norm_grad",
    "max_pool",
    "max_pool_grad",
    "placements",
    "positions",
    "relu",
    "relu6",
    "relu6_grad",
    "relu_grad",
    "sigmoid",
    "sigmoid_grad",
    "silu",
    "silu_grad",
    "softmax_cross_entropy",
    "softmax_cross_entropy_grad",
    "spatial_dropout",
    "spatial_dropout_grad",
    "squeeze_excite",
    "squeeze_excite_grad",
    "stochastic_depth",
    "stochastic_depth_grad",
]
