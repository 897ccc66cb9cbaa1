"""Products and sums of more than 32,768 rows: jitted as op by op.

jax 0.10.2's CPU compiler returns wrong sums for some fused products of that many rows
(jax issue 39103); see `docs/numerics.md`. Networks are in `models/test_large_rows`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import kernels

# 32,769 = 9 * 11 * 331 is one more row than what the fault needs.
ROWS = (1, 99, 331)
CHANNELS = (3, 8)
QUICK = ("dense", "1x1 conv", "batch_norm", "layer_norm")


def weighted(fn, *w_shape, **options):
    """Returns the operation with its options, and the shape of its weights."""
    return (lambda x, w: fn(x, w, **options)), w_shape


# What is done to x `(*ROWS, c)` with weights of a shape. Each is followed by a square
# and a sum over channels, as in the report.
PROGRAMS = {
    "dense": lambda c: weighted(kernels.dense, c, c),
    "1x1 conv": lambda c: weighted(kernels.conv, 1, 1, c, c),
    "3x3 conv": lambda c: weighted(kernels.conv, 3, 3, c, c),
    "depthwise": lambda c: weighted(kernels.conv, 3, 3, 1, c, groups=c),
    "conv_transpose": lambda c: weighted(kernels.conv_transpose, 3, 3, c, c),
    "general": lambda c: weighted(
        lambda x, w: kernels.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        *(1, 1, c, c),
    ),
    "batch_norm": lambda c: weighted(
        lambda x, w: kernels.batch_norm(x @ w, w[0], w[1], epsilon=1e-3)[0], c, c
    ),
    "batch_norm_inference": lambda c: weighted(
        lambda x, w: kernels.batch_norm_inference(
            x @ w, w[0], w[1] ** 2, w[0], w[1], epsilon=1e-3
        ),
        *(c, c),
    ),
    "layer_norm": lambda c: weighted(
        lambda x, w: kernels.layer_norm(x @ w, w[0], w[1], epsilon=1e-3), c, c
    ),
    "group_norm": lambda c: weighted(
        lambda x, w: kernels.group_norm(x @ w, w[0], w[1], num_groups=1, epsilon=1e-3),
        *(c, c),
    ),
    "local_response_norm": lambda c: weighted(
        lambda x, w: kernels.local_response_norm(x @ w, alpha=0.1), c, c
    ),
    "max_pool": lambda c: weighted(
        lambda x, w: kernels.max_pool(x @ w, 3, strides=1, padding="SAME"), c, c
    ),
    "avg_pool": lambda c: weighted(
        lambda x, w: kernels.avg_pool(x @ w, 3, strides=1, padding="SAME"), c, c
    ),
    "global_avg_pool": lambda c: weighted(
        lambda x, w: kernels.global_avg_pool(x @ w), c, c
    ),
    "adaptive_avg_pool": lambda c: weighted(
        lambda x, w: kernels.adaptive_avg_pool(x @ w, (99, 331)), c, c
    ),
    "squeeze_excite": lambda c: weighted(
        lambda x, w: kernels.squeeze_excite(x @ w, w, w[0], w, w[1]), c, c
    ),
    "dropout": lambda c: weighted(
        lambda x, w: kernels.dropout(x @ w, jax.random.key(0), 0.5), c, c
    ),
    "drop_block": lambda c: weighted(
        lambda x, w: kernels.drop_block(x @ w, jax.random.key(0), 0.1, block_size=3),
        *(c, c),
    ),
    "stochastic_depth": lambda c: weighted(
        lambda x, w: kernels.stochastic_depth(x @ w, jax.random.key(0), 0.1), c, c
    ),
    "spatial_dropout": lambda c: weighted(
        lambda x, w: kernels.spatial_dropout(x @ w, jax.random.key(0), 0.1), c, c
    ),
    "softmax_cross_entropy": lambda c: weighted(
        lambda x, w: kernels.softmax_cross_entropy(
            x @ w, jnp.zeros(x.shape[:-1], jnp.int32)
        )[..., None],
        *(c, c),
    ),
    **{
        name: lambda c, name=name: weighted(
            lambda x, w: getattr(kernels, name)(x @ w), c, c
        )
        for name in (
            *("relu", "relu6", "silu", "sigmoid", "gelu"),
            *("hard_swish", "hard_sigmoid"),
        )
    },
}


def marks(name, channels):
    is_quick = channels == CHANNELS[0] and name in QUICK
    return () if is_quick else pytest.mark.nightly


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        pytest.param(name, channels, marks=marks(name, channels))
        for name in PROGRAMS
        for channels in CHANNELS
    ],
)
def test_value_and_gradients(name, channels, generator):
    fn, w_shape = PROGRAMS[name](channels)
    x = generator.standard_normal((*ROWS, channels)).astype(np.float32)
    w = generator.standard_normal(w_shape).astype(np.float32)

    def value(x, w):
        return jnp.sum(fn(x, w) ** 2, -1)

    def everything(x, w):
        def loss(x, w):
            # Weighted: a normalised channel's sum of squares does not depend on x.
            rows = value(x, w)
            weights = jnp.cos(jnp.arange(rows.size, dtype=rows.dtype))
            return jnp.mean(rows * weights.reshape(rows.shape))

        total, gradients = jax.value_and_grad(loss, (0, 1))(x, w)
        return value(x, w), total, gradients

    fused = jax.jit(everything)(x, w)
    with jax.disable_jit():
        one_by_one = everything(x, w)
    for got, wanted in zip(
        jax.tree.leaves(fused), jax.tree.leaves(one_by_one), strict=True
    ):
        size = np.abs(wanted).max()
        # A row that is read wrongly is off by its own size.
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4 * size)
