"""The twins: every kernel as plain `lax`, differentiated by JAX.

Same names, arguments and results as `cnn_jax.kernels`, but no derivative here is ours.
They serve as the reference that the kernels' gradients are proven against, and for
what a hand-written VJP cannot do, such as plain forward mode:

    tangent = jax.jvp(autodiff.conv, (x, w), (dx, dw))[1]

Arguments are resolved but not checked: the kernels are where errors are explained.
"""

from cnn_jax.kernels.autodiff.activation import (
    gelu,
    hard_sigmoid,
    hard_swish,
    relu,
    relu6,
    sigmoid,
    silu,
)
from cnn_jax.kernels.autodiff.adaptive_pool import (
    adaptive_avg_pool,
)
from cnn_jax.kernels.autodiff.batch_norm import (
    batch_norm,
    batch_norm_inference,
)
from cnn_jax.kernels.autodiff.conv import (
    conv,
    conv_bias_grad,
    conv_filter_grad,
    conv_input_grad,
)
from cnn_jax.kernels.autodiff.conv_general import (
    conv_general_dilated,
)
from cnn_jax.kernels.autodiff.conv_transpose import (
    conv_transpose,
)
from cnn_jax.kernels.autodiff.dense import (
    dense,
)
from cnn_jax.kernels.autodiff.dropout import (
    drop_block,
    dropout,
    spatial_dropout,
    stochastic_depth,
)
from cnn_jax.kernels.autodiff.group_norm import (
    group_norm,
)
from cnn_jax.kernels.autodiff.layer_norm import (
    layer_norm,
)
from cnn_jax.kernels.autodiff.local_response_norm import (
    local_response_norm,
)
from cnn_jax.kernels.autodiff.loss import (
    softmax_cross_entropy,
)
from cnn_jax.kernels.autodiff.pool import (
    avg_pool,
    avg_pool_grad,
    global_avg_pool,
    max_pool,
    max_pool_grad,
)
from cnn_jax.kernels.autodiff.squeeze_excite import (
    squeeze_excite,
)

__all__ = [
    "adaptive_avg_pool",
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
]
