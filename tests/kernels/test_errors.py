"""Bad input is a ValueError that says what to do, before anything is traced."""

import jax
import jax.numpy as jnp
import pytest

from cnn_jax import kernels as K


def ones(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


KEY = jax.eval_shape(lambda: jax.random.key(0))
IMAGE, FILTER = ones(2, 6, 6, 4), ones(3, 3, 4, 8)
HALF = jnp.bfloat16

# Name -> (kernel, array arguments, options, what the message must hold).
REJECTED = {
    "groups that do not divide the inputs": (
        K.conv,
        (IMAGE, ones(3, 3, 1, 6)),
        {"groups": 3},
        r"got 4 input and 6 output channels for 3 groups",
    ),
    "groups that do not divide the outputs": (
        K.conv,
        (IMAGE, ones(3, 3, 2, 7)),
        {"groups": 2},
        r"7 output channels for 2 groups",
    ),
    "filter inputs without the groups": (
        K.conv,
        (IMAGE, FILTER),
        {"groups": 2},
        r"expected 2 input channels in the filter",
    ),
    "filter of other channels": (
        K.conv,
        (IMAGE, ones(3, 3, 5, 8)),
        {},
        r"got an input with 4 channels and a filter \(3, 3, 5, 8\)",
    ),
    "no groups": (K.conv, (IMAGE, FILTER), {"groups": 0}, "groups 0"),
    "groups as a float": (K.conv, (IMAGE, FILTER), {"groups": 2.0}, "groups 2.0"),
    "filter of lower rank": (K.conv, (IMAGE, ones(3, 4, 8)), {}, "filter of rank 3"),
    "filter of higher rank": (
        K.conv,
        (IMAGE, ones(3, 3, 3, 4, 8)),
        {},
        r"expected \(\*spatial, in / groups, out\)",
    ),
    "image without a batch": (
        K.conv,
        (ones(6, 4), ones(4, 8)),
        {},
        "spatial dimensions",
    ),
    "four spatial dimensions": (
        K.conv,
        (ones(1, 2, 2, 2, 2, 3), ones(1, 1, 1, 1, 3, 3)),
        {},
        "one to three spatial dimensions",
    ),
    "filter of another dtype": (
        K.conv,
        (ones(2, 6, 6, 4, dtype=HALF), FILTER),
        {},
        "x bfloat16, w float32, expected one dtype",
    ),
    "bias of another dtype": (
        K.conv,
        (IMAGE, FILTER, ones(8, dtype=HALF)),
        {},
        "b bfloat16",
    ),
    "integer image": (
        K.conv,
        (ones(2, 6, 6, 4, dtype=jnp.int32), FILTER),
        {},
        "expected floating-point",
    ),
    "bias of another size": (K.conv, (IMAGE, FILTER, ones(4)), {}, r"expected \(8,\)"),
    "unknown padding": (
        K.conv,
        (IMAGE, FILTER),
        {"padding": "FULL"},
        "'SAME', 'VALID'",
    ),
    "padding for one dimension": (
        K.conv,
        (IMAGE, FILTER),
        {"padding": (1,)},
        "2 entries",
    ),
    "padding of three sides": (
        K.conv,
        (IMAGE, FILTER),
        {"padding": ((1, 1, 1), 0)},
        "pair",
    ),
    "padding as a float": (
        K.conv,
        (IMAGE, FILTER),
        {"padding": 1.5},
        "padding: got 1.5",
    ),
    "padding that crops too much": (
        K.conv,
        (IMAGE, FILTER),
        {"padding": (-4, 0)},
        "crops more",
    ),
    "stride 0": (K.conv, (IMAGE, FILTER), {"strides": 0}, "strides: .* positive"),
    "strides for three dimensions": (
        K.conv,
        (IMAGE, FILTER),
        {"strides": (1, 1, 1)},
        "strides: got 3 entries",
    ),
    "dilation as a string": (K.conv, (IMAGE, FILTER), {"dilation": "2"}, "dilation"),
    "cotangent of another shape for dx": (
        K.conv_input_grad,
        (ones(2, 5, 6, 8), FILTER),
        {"input_shape": (2, 6, 6, 4)},
        r"conv_input_grad: got dy \(2, 5, 6, 8\), expected \(2, 6, 6, 8\)",
    ),
    "cotangent of another shape for dw": (
        K.conv_filter_grad,
        (IMAGE, ones(2, 6, 6, 8)),
        {"filter_shape": (3, 3, 4, 8), "strides": 2},
        r"expected \(2, 3, 3, 8\)",
    ),
    "cotangent of another dtype": (
        K.conv_filter_grad,
        (IMAGE, ones(2, 6, 6, 8, dtype=HALF)),
        {"filter_shape": (3, 3, 4, 8)},
        "dy bfloat16",
    ),
    "cotangent without channels": (K.conv_bias_grad, (ones(3),), {}, "conv_bias_grad"),
    "pooling a matrix": (
        K.max_pool,
        (ones(4, 4),),
        {"window": 2},
        "spatial dimensions",
    ),
    "window of three sizes": (K.max_pool, (IMAGE,), {"window": (2, 2, 2)}, "3 entries"),
    "window 0": (K.avg_pool, (IMAGE,), {"window": 0}, "window: .* positive"),
    "pooling integers": (
        K.avg_pool,
        (ones(2, 4, 4, 1, dtype=jnp.int32),),
        {"window": 2},
        "floating-point",
    ),
    "pooled cotangent of another shape": (
        K.max_pool_grad,
        (IMAGE, ones(2, 2, 2, 4)),
        {"window": 2},
        r"expected \(2, 3, 3, 4\)",
    ),
    "averaged cotangent of another shape": (
        K.avg_pool_grad,
        (ones(2, 2, 2, 4),),
        {"window": 2, "input_shape": (2, 6, 6, 4)},
        r"expected \(2, 3, 3, 4\)",
    ),
    "averaging no positions": (K.global_avg_pool, (ones(2, 0, 4),), {}, "none empty"),
    "averaging a matrix": (K.global_avg_pool, (ones(2, 4),), {}, "global_avg_pool"),
    "dense of other features": (K.dense, (ones(2, 3), ones(4, 5)), {}, r"\(in, out\)"),
    "dense bias of another size": (
        K.dense,
        (ones(2, 3), ones(3, 5), ones(3)),
        {},
        r"expected \(5,\)",
    ),
    "dense of another dtype": (
        K.dense,
        (ones(2, 3), ones(3, 5, dtype=HALF)),
        {},
        "one dtype",
    ),
    "relu of integers": (K.relu, (ones(2, dtype=jnp.int32),), {}, "floating-point"),
    **{
        f"{kernel.__name__} of integers": (
            kernel,
            (ones(2, dtype=jnp.int32),),
            {},
            f"{kernel.__name__}: got x int32, expected floating-point",
        )
        for kernel in (K.relu6, K.sigmoid, K.hard_sigmoid, K.silu, K.hard_swish, K.gelu)
    },
    "layer norm of integers": (
        K.layer_norm,
        (ones(2, 3, dtype=jnp.int32), ones(3), ones(3)),
        {"epsilon": 1e-5},
        "layer_norm: got x int32",
    ),
    "layer norm without channels": (
        K.layer_norm,
        (ones(2, 0), ones(0), ones(0)),
        {"epsilon": 1e-5},
        r"layer_norm: got x \(2, 0\), expected \(..., c\) with at least one channel",
    ),
    "layer norm of a number": (
        K.layer_norm,
        (ones(),),
        {"scale": None, "bias": None, "epsilon": 1e-5},
        r"layer_norm: got x \(\)",
    ),
    "layer norm's scale of another size": (
        K.layer_norm,
        (ones(2, 3), ones(2), ones(3)),
        {"epsilon": 1e-5},
        r"layer_norm: got scale \(2,\), expected \(3,\)",
    ),
    "layer norm's bias of another dtype": (
        K.layer_norm,
        (ones(2, 3), ones(3), ones(3, dtype=HALF)),
        {"epsilon": 1e-5},
        "layer_norm: got bias bfloat16 for x float32",
    ),
    "groups that do not divide the channels": (
        K.group_norm,
        (IMAGE, ones(4), ones(4)),
        {"num_groups": 3, "epsilon": 1e-5},
        "group_norm: got num_groups 3 for 4 channels, expected a positive integer that",
    ),
    "group norm in no groups": (
        K.group_norm,
        (IMAGE, ones(4), ones(4)),
        {"num_groups": 0, "epsilon": 1e-5},
        "num_groups 0",
    ),
    "group norm in 2.0 groups": (
        K.group_norm,
        (IMAGE, ones(4), ones(4)),
        {"num_groups": 2.0, "epsilon": 1e-5},
        "num_groups 2.0",
    ),
    "group norm of no positions": (
        K.group_norm,
        (ones(2, 0, 4), ones(4), ones(4)),
        {"num_groups": 2, "epsilon": 1e-5},
        "at least one entry an example",
    ),
    "group norm of a vector": (
        K.group_norm,
        (ones(4), ones(4), ones(4)),
        {"num_groups": 2, "epsilon": 1e-5},
        r"expected \(n, \*spatial, c\)",
    ),
    "group norm's bias of another size": (
        K.group_norm,
        (IMAGE, ones(4), ones(1)),
        {"num_groups": 2, "epsilon": 1e-5},
        r"group_norm: got bias \(1,\)",
    ),
    "normalising an empty batch": (
        K.batch_norm,
        (ones(0, 3), ones(3), ones(3)),
        {"epsilon": 1e-5},
        "empty batch",
    ),
    "scale of another size": (
        K.batch_norm,
        (ones(2, 3), ones(2), ones(3)),
        {"epsilon": 1e-5},
        r"scale \(2,\), expected \(3,\)",
    ),
    "bfloat16 scale for a float32 image": (
        K.batch_norm,
        (ones(2, 3), ones(3, dtype=HALF), ones(3)),
        {"epsilon": 1e-5},
        "scale bfloat16",
    ),
    "variance of another size": (
        K.batch_norm_inference,
        (ones(2, 3), ones(3), ones(1), ones(3), ones(3)),
        {"epsilon": 1e-5},
        r"var \(1,\)",
    ),
    "rate 1": (K.dropout, (ones(3), KEY), {"rate": 1.0}, r"rate 1.0.*\[0, 1\)"),
    "negative rate": (K.dropout, (ones(3), KEY), {"rate": -0.1}, "rate -0.1"),
    "rate that is NaN": (K.dropout, (ones(3), KEY), {"rate": float("nan")}, "rate nan"),
    "stochastic rate 2": (K.stochastic_depth, (ones(3, 2), KEY), {"rate": 2}, "rate 2"),
    "labels of another shape": (
        K.softmax_cross_entropy,
        (ones(4, 3), ones(3, dtype=jnp.int32)),
        {},
        r"labels \(3,\), expected \(4,\)",
    ),
    "probabilities of another shape": (
        K.softmax_cross_entropy,
        (ones(4, 3), ones(4)),
        {},
        r"expected \(4, 3\)",
    ),
    "smoothing 1": (
        K.softmax_cross_entropy,
        (ones(4, 3), ones(4, dtype=jnp.int32)),
        {"label_smoothing": 1.0},
        "label_smoothing 1.0",
    ),
    "no classes": (
        K.softmax_cross_entropy,
        (ones(4, 0), ones(4, dtype=jnp.int32)),
        {},
        "at least one class",
    ),
}


@pytest.mark.parametrize("name", REJECTED)
def test_rejects(name):
    kernel, arguments, options, message = REJECTED[name]
    # Shapes are enough: nothing has been computed when the error is raised.
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda *arrays: kernel(*arrays, **options), *arguments)


def test_a_traced_rate_is_rejected():
    with pytest.raises(ValueError, match="rate"):
        jax.jit(lambda rate: K.dropout(jnp.ones(3), jax.random.key(0), rate))(0.5)


def test_an_unknown_platform_is_rejected():
    with (
        pytest.raises(ValueError, match="'rocket', expected one of cpu, gpu, tpu"),
        K.target_platform("rocket"),
    ):
        pass
