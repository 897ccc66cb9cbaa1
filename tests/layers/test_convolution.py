"""Conv and ConvTranspose against Flax: the same variables, outputs and gradients."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from helpers.flax_equality import assert_equals_flax

from cnn_jax.layers import Conv, ConvTranspose

CASES = {
    "3x3": ((2, 7, 6, 4), {"kernel_size": (3, 3)}),
    "1x1": ((2, 5, 5, 4), {"kernel_size": (1, 1), "use_bias": False}),
    "strided": ((2, 8, 8, 4), {"kernel_size": (3, 3), "strides": 2, "padding": 1}),
    "valid": ((2, 9, 8, 4), {"kernel_size": (5, 3), "padding": "VALID"}),
    "dilated": ((2, 9, 9, 4), {"kernel_size": (3, 3), "dilation": 2}),
    "grouped": ((2, 6, 6, 4), {"kernel_size": (3, 3), "groups": 2}),
    "depthwise": ((2, 6, 6, 6), {"kernel_size": (3, 3), "groups": 6, "strides": 2}),
    "asymmetric": (
        (2, 6, 7, 4),
        {"kernel_size": (2, 3), "strides": (2, 1), "padding": ((0, 1), (2, 1))},
    ),
    "1d": ((2, 9, 4), {"kernel_size": (3,)}),
    "3d": ((1, 4, 5, 4, 2), {"kernel_size": (2, 3, 1)}),
}


TRANSPOSED_CASES = {
    "2x2 stride 2": ((2, 4, 5, 4), {"kernel_size": (2, 2), "strides": 2}),
    "valid": (
        (2, 4, 3, 4),
        {"kernel_size": (4, 3), "strides": (2, 3), "padding": "VALID"},
    ),
    "integer": ((2, 5, 4, 4), {"kernel_size": (3, 3), "padding": 1, "use_bias": False}),
    "explicit": (
        (2, 4, 4, 4),
        {"kernel_size": (3, 2), "strides": 2, "padding": ((1, 2), (0, 3))},
    ),
    "dilated": ((2, 4, 3, 4), {"kernel_size": (3, 3), "dilation": 2, "strides": 2}),
    "1d": ((2, 5, 4), {"kernel_size": (4,), "strides": 3}),
    "3d": ((1, 2, 3, 2, 2), {"kernel_size": (2, 3, 1), "strides": (2, 1, 2)}),
}


def flax_conv(groups=1, dilation=1, **fields):
    return nn.Conv(feature_group_count=groups, kernel_dilation=dilation, **fields)


def flax_conv_transpose(dilation=1, **fields):
    return nn.ConvTranspose(kernel_dilation=dilation, **fields)


@pytest.mark.parametrize(
    ("shape", "fields", "ours", "theirs"),
    [
        *(pytest.param(*CASES[name], Conv, flax_conv, id=name) for name in CASES),
        *(
            pytest.param(
                *TRANSPOSED_CASES[name],
                ConvTranspose,
                flax_conv_transpose,
                id=f"transposed, {name}",
            )
            for name in TRANSPOSED_CASES
        ),
    ],
)
def test_equals_flax(shape, fields, ours, theirs, x64, generator):
    fields = dict(fields, features=6, param_dtype=jnp.float64)
    x = jnp.asarray(generator.normal(size=shape))
    ours, theirs = ours(**fields), theirs(**fields)
    assert_equals_flax(ours, theirs, x, generator, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["Conv", "ConvTranspose"])
def test_starts_as_flax_does(name):
    x = jnp.zeros((1, 5, 5, 2))
    ours, theirs = {
        "Conv": (Conv, nn.Conv),
        "ConvTranspose": (ConvTranspose, nn.ConvTranspose),
    }[name]
    chex.assert_trees_all_equal(
        ours(4, (3, 3)).init(jax.random.key(1), x),
        theirs(4, (3, 3)).init(jax.random.key(1), x),
    )


@pytest.mark.parametrize("layer", [Conv, ConvTranspose])
def test_integer_kernel_size_spans_every_dimension(layer):
    x = jnp.zeros((1, 5, 5, 2))
    params = layer(4, 3).init(jax.random.key(0), x)["params"]
    chex.assert_shape(params["kernel"], (3, 3, 2, 4))


@pytest.mark.parametrize("layer", [Conv, ConvTranspose])
def test_computes_in_dtype_and_stores_in_param_dtype(layer, generator):
    x = jnp.asarray(generator.normal(size=(2, 6, 6, 4)), jnp.float32)
    conv = layer(8, 3, dtype=jnp.bfloat16)
    variables = conv.init(jax.random.key(0), x)
    chex.assert_tree_all_finite(variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}

    def total(variables):
        y = conv.apply(variables, x)
        assert y.dtype == jnp.bfloat16
        return y.astype(jnp.float32).sum()

    gradient = jax.grad(total)(variables)
    chex.assert_trees_all_equal_dtypes(gradient, variables)
    chex.assert_trees_all_close(
        conv.apply(variables, x).astype(jnp.float32),
        layer(8, 3).apply(variables, x),
        rtol=0.05,
        atol=0.05,
    )


@pytest.mark.parametrize(
    ("shape", "fields", "message"),
    [
        ((2, 4), {"features": 4}, "spatial dimensions"),
        ((1, 2, 2, 2, 2, 4), {"features": 4}, "spatial dimensions"),
        ((1, 4, 4, 4), {"features": 4, "kernel_size": (3,)}, "kernel_size"),
        ((1, 4, 4, 3), {"features": 4, "groups": 2}, "3 input channels"),
        ((1, 4, 4, 4), {"features": 5, "groups": 2}, "5 features"),
        ((1, 4, 4, 4), {"features": 4, "groups": 0}, "groups"),
    ],
)
@pytest.mark.parametrize("layer", [Conv, ConvTranspose])
def test_refuses(shape, fields, message, layer):
    with pytest.raises(ValueError, match=message):
        layer(**{"kernel_size": 3, **fields}).init(jax.random.key(0), jnp.zeros(shape))


def test_transposed_groups_are_transposed_convolutions_side_by_side(generator):
    x = jnp.asarray(generator.normal(size=(2, 3, 4, 4)), jnp.float32)
    layer = ConvTranspose(6, 3, strides=2, groups=2)
    variables = layer.init(jax.random.key(0), x)
    kernel = variables["params"]["kernel"]
    parts = [
        ConvTranspose(3, 3, strides=2, use_bias=False).apply(
            {"params": {"kernel": part}}, image
        )
        for image, part in zip(
            jnp.split(x, 2, -1), jnp.split(kernel, 2, -1), strict=True
        )
    ]
    chex.assert_trees_all_close(
        layer.apply(variables, x), jnp.concatenate(parts, -1), rtol=1e-5, atol=1e-6
    )
