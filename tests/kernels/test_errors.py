"""Bad input is a ValueError that says what to do, before anything is traced."""

import math
import re

import jax
import jax.numpy as jnp
import pytest

from cnn_jax import kernels as K


def ones(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


KEY = jax.eval_shape(lambda: jax.random.key(0))
IMAGE, FILTER = ones(2, 6, 6, 4), ones(3, 3, 4, 8)
GATE = (ones(4, 2), ones(2), ones(2, 4), ones(4))
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
    "groups as a boolean": (K.conv, (IMAGE, FILTER), {"groups": True}, "groups True"),
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
    "transposed filter of other channels": (
        K.conv_transpose,
        (IMAGE, ones(3, 3, 8, 4)),
        {},
        r"conv_transpose: got an input with 4 channels and a filter \(3, 3, 8, 4\)",
    ),
    "transposed image without a batch": (
        K.conv_transpose,
        (ones(6, 4), ones(4, 8)),
        {},
        "conv_transpose.* one to three spatial dimensions",
    ),
    "transposed groups that do not divide": (
        K.conv_transpose,
        (IMAGE, ones(3, 3, 2, 7)),
        {"groups": 2},
        "7 output channels for 2 groups",
    ),
    "transposed bias of another size": (
        K.conv_transpose,
        (IMAGE, FILTER, ones(4)),
        {},
        r"conv_transpose: got b \(4,\), expected \(8,\)",
    ),
    "transposed filter of another dtype": (
        K.conv_transpose,
        (IMAGE, ones(3, 3, 4, 8, dtype=HALF)),
        {},
        "conv_transpose.* w bfloat16, expected one dtype",
    ),
    "transposed padding that crops too much": (
        K.conv_transpose,
        (IMAGE, FILTER),
        {"padding": ((0, 0), (-6, -6)), "strides": 2},
        "crops more than the spread input's 11",
    ),
    "transposed padding of another name": (
        K.conv_transpose,
        (IMAGE, FILTER),
        {"padding": "SAME_LOWER"},
        "'SAME', 'VALID'",
    ),
    "transposed stride 0": (
        K.conv_transpose,
        (IMAGE, FILTER),
        {"strides": 0},
        "strides",
    ),
    **{
        f"general: {name}": (
            K.conv_general_dilated,
            arrays or (ones(2, 4, 6, 6), ones(8, 4, 3, 3)),
            {"window_strides": (1, 1), "padding": "SAME", **options},
            message,
        )
        for name, arrays, options, message in (
            (
                "groups of the batch",
                None,
                {"batch_group_count": 2},
                "batch_group_count 2, expected 1; use jax.lax.conv_general_dilated",
            ),
            (
                "sharding of the result",
                None,
                {"out_sharding": jax.sharding.PartitionSpec()},
                "out_sharding .*with_sharding_constraint.*jax.lax.conv_general_dilated",
            ),
            (
                "integers",
                (ones(2, 4, 6, 6, dtype=jnp.int32), ones(8, 4, 3, 3, dtype=jnp.int32)),
                {},
                "expected floating-point",
            ),
            (
                "two dtypes",
                (ones(2, 4, 6, 6), ones(8, 4, 3, 3, dtype=HALF)),
                {},
                "lhs float32, rhs bfloat16, expected one dtype",
            ),
            (
                "eight bits",
                tuple(
                    ones(*shape, dtype=jnp.float8_e5m2)
                    for shape in ((2, 4, 6, 6), (8, 4, 3, 3))
                ),
                {},
                "float8_e5m2, expected one of float16, .*lax.conv_general_dilated",
            ),
            (
                "a narrower result",
                None,
                {"preferred_element_type": HALF},
                "bfloat16 for float32 operands, expected float32 or a wider",
            ),
            (
                "an integer result",
                None,
                {"preferred_element_type": jnp.int32},
                "dtype int32, expected one of",
            ),
            ("no spatial dimensions", (ones(2, 4), ones(8, 4)), {}, "1 to 3 spatial"),
            (
                "four spatial dimensions",
                (ones(1, 1, 2, 2, 2, 2), ones(1, 1, 1, 1, 1, 1)),
                {},
                "1 to 3 spatial dimensions; use jax.lax.conv_general_dilated",
            ),
            (
                "ranks that differ",
                (ones(2, 4, 6, 6), ones(8, 4, 3)),
                {},
                "expected equal ranks",
            ),
            (
                "two layouts",
                None,
                {"dimension_numbers": ("NCHW", "OIHW")},
                "dimension_numbers .*NHWC",
            ),
            (
                "a layout without a letter",
                None,
                {"dimension_numbers": ("NCHH", "OIHW", "NCHW")},
                "dimension_numbers .*NHWC",
            ),
            (
                "axes that are no order",
                None,
                {
                    "dimension_numbers": jax.lax.ConvDimensionNumbers(
                        (0, 1, 2, 2), (0, 1, 2, 3), (0, 1, 2, 3)
                    )
                },
                "must order the axes 0 to 3",
            ),
            (
                "channels that differ",
                None,
                {"dimension_numbers": ("NHWC", "HWIO", "NHWC")},
                "conv_general_dilated: got an input with 6 channels",
            ),
            ("groups", None, {"feature_group_count": 3}, "for 3 groups"),
            (
                "strides",
                None,
                {"window_strides": (1,)},
                "window_strides: got 1 entries",
            ),
            ("no strides", None, {"window_strides": None}, "window_strides: got None"),
            ("dilation", None, {"rhs_dilation": (0, 1)}, "rhs_dilation: .* positive"),
            (
                "padding by name of a spread input",
                None,
                {"lhs_dilation": (2, 1)},
                r"'SAME' with lhs_dilation \(2, 1\), expected \(low, high\) pairs",
            ),
            (
                "padding by integers",
                None,
                {"padding": (1, 1)},
                r"2 \(low, high\) pairs",
            ),
            (
                "padding for one dimension",
                None,
                {"padding": ((1, 1),)},
                r"2 \(low, high\) pairs",
            ),
            ("padding of another name", None, {"padding": "FULL"}, "'SAME'"),
            ("cropping", None, {"padding": ((-4, -3), (0, 0))}, "crops more"),
        )
    },
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
    "activation that no kernel ends in": (
        K.batch_norm,
        (ones(2, 3), ones(3), ones(3)),
        {"epsilon": 1e-5, "activation": jnp.tanh},
        "batch_norm: got activation .*tanh.*one of the kernels .*relu.*apply any other",
    ),
    "activation by name": (
        K.batch_norm_inference,
        (ones(2, 3), ones(3), ones(3), ones(3), ones(3)),
        {"epsilon": 1e-5, "activation": "relu"},
        "batch_norm_inference: got activation 'relu'.*sigmoid, silu",
    ),
    "activation without a hash": (
        K.batch_norm,
        (ones(2, 3), ones(3), ones(3)),
        {"epsilon": 1e-5, "activation": []},
        r"got activation \[\]",
    ),
    **{
        f"epsilon {value} of {kernel.__name__}": (
            kernel,
            (ones(2, 3), *(ones(3),) * num_vectors),
            {"epsilon": value, **options},
            rf"{kernel.__name__}: got epsilon .*{re.escape(repr(value))}.*float32",
        )
        for kernel, num_vectors, options in (
            (K.batch_norm, 2, {}),
            (K.batch_norm_inference, 4, {}),
            (K.layer_norm, 2, {}),
            (K.group_norm, 2, {"num_groups": 1}),
        )
        for value in (math.nan, math.inf, -1e-5, 1e-300, 1e300, "1e-5", None, True)
    },
    "adapting to nothing": (
        K.adaptive_avg_pool,
        (ones(2, 4, 4, 3),),
        {"output_size": 0},
        r"output_size: got \(0, 0\), expected positive",
    ),
    "adapting another rank": (
        K.adaptive_avg_pool,
        (ones(2, 4, 4, 3),),
        {"output_size": (2, 2, 2)},
        "output_size: got 3 entries",
    ),
    "adapting no positions": (
        K.adaptive_avg_pool,
        (ones(2, 0, 4, 3),),
        {"output_size": 2},
        "adaptive_avg_pool: got x .* none empty",
    ),
    "no neighbours": (
        K.local_response_norm,
        (ones(2, 3),),
        {"size": 0},
        "local_response_norm: got size 0, expected a positive integer",
    ),
    "vanishing bracket": (
        K.local_response_norm,
        (ones(2, 3),),
        {"k": 0.0},
        "got k 0.0, alpha 0.0001 and beta 0.75, expected finite .* k > 0",
    ),
    "power that is NaN": (
        K.local_response_norm,
        (ones(2, 3),),
        {"beta": float("nan")},
        "beta nan, expected finite",
    ),
    "normalising a number": (K.local_response_norm, (ones(),), {}, "got a scalar x"),
    "activation of a gate": (
        K.squeeze_excite,
        (IMAGE, *GATE),
        {"activation": jax.nn.relu},
        "squeeze_excite: got activation .*relu",
    ),
    "no gate": (K.squeeze_excite, (IMAGE, *GATE), {"gate": None}, "got gate None"),
    "gating a matrix": (
        K.squeeze_excite,
        (ones(2, 4), *GATE),
        {},
        r"squeeze_excite: got x \(2, 4\), expected \(n, \*spatial, c\)",
    ),
    "gating no positions": (K.squeeze_excite, (ones(2, 0, 4), *GATE), {}, "none empty"),
    "gate of other channels": (
        K.squeeze_excite,
        (ones(2, 6, 6, 3), *GATE),
        {},
        r"squeeze_w \(4, 2\).*expected weights \(3, m\) and \(m, 3\)",
    ),
    "gate that expands something else": (
        K.squeeze_excite,
        (IMAGE, ones(4, 2), ones(2), ones(3, 4), ones(4)),
        {},
        r"expand_w \(3, 4\)",
    ),
    "gate's bias of another size": (
        K.squeeze_excite,
        (IMAGE, ones(4, 2), ones(2), ones(2, 4), ones(2)),
        {},
        r"expand_b \(2,\)",
    ),
    "gate's weights as a vector": (
        K.squeeze_excite,
        (IMAGE, ones(4), ones(4), ones(4, 4), ones(4)),
        {},
        r"squeeze_w \(4,\)",
    ),
    "gate's weights as a number": (
        K.squeeze_excite,
        (IMAGE, ones(), ones(), ones(4), ones(4)),
        {},
        r"squeeze_w \(\)",
    ),
    "gate of another dtype": (
        K.squeeze_excite,
        (ones(2, 6, 6, 4, dtype=HALF), *GATE),
        {},
        "squeeze_excite: got x bfloat16, squeeze_w float32.*one dtype",
    ),
    "rate 1": (K.dropout, (ones(3), KEY), {"rate": 1.0}, r"rate 1.0.*\[0, 1\)"),
    "negative rate": (K.dropout, (ones(3), KEY), {"rate": -0.1}, "rate -0.1"),
    "rate that is NaN": (K.dropout, (ones(3), KEY), {"rate": float("nan")}, "rate nan"),
    "squares at rate 1": (
        K.drop_block,
        (ones(2, 4, 4, 3), KEY),
        {"rate": 1.0, "block_size": 3},
        "drop_block: got rate 1.0",
    ),
    "squares without side": (
        K.drop_block,
        (ones(2, 4, 4, 3), KEY),
        {"rate": 0.1, "block_size": 0},
        "block_size 0, expected a positive integer",
    ),
    "squares of features": (
        K.drop_block,
        (ones(2, 3), KEY),
        {"rate": 0.1, "block_size": 1},
        r"drop_block: got an input of shape \(2, 3\)",
    ),
    "channels at rate 2": (
        K.spatial_dropout,
        (ones(2, 3), KEY),
        {"rate": 2},
        "spatial_dropout: got rate 2",
    ),
    "channels of a vector": (
        K.spatial_dropout,
        (ones(3), KEY),
        {"rate": 0.1},
        r"spatial_dropout: got an input of shape \(3,\)",
    ),
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
    "boolean labels": (
        K.softmax_cross_entropy,
        (ones(4, 3), ones(4, dtype=bool)),
        {},
        r"got bool labels, expected integers \(4,\) or floating-point probabilities",
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


def test_a_traced_constant_of_the_response_norm_is_rejected():
    with pytest.raises(ValueError, match="expected finite numbers"):
        jax.jit(lambda k: K.local_response_norm(jnp.ones(3), k=k))(2.0)


def test_an_unknown_platform_is_rejected():
    with (
        pytest.raises(ValueError, match="'rocket', expected one of cpu, gpu, tpu"),
        K.target_platform("rocket"),
    ):
        pass
