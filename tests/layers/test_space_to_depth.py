"""SpaceToDepthConv is Conv: the same parameters, the same sums."""

import chex
import jax
import jax.numpy as jnp
import pytest
from helpers.quick import slow_except

from cnn_jax.layers import Conv, SpaceToDepthConv

# Shape of the input, size of the filter, other fields.
CASES = {
    "resnet_stem": ((2, 14, 13, 3), 7, {"strides": 2, "padding": 3}),
    "same_on_odd": ((2, 9, 11, 3), 3, {"strides": 2}),
    "same_on_even": ((2, 8, 10, 3), 3, {"strides": 2}),
    "patches": ((2, 8, 12, 3), 4, {"strides": 4, "padding": "VALID"}),
    "patches_left_over": ((2, 9, 11, 3), 4, {"strides": 4, "padding": "VALID"}),
    "alexnet_stem": ((1, 23, 27, 3), 11, {"strides": 4, "padding": 2}),
    "valid": ((2, 9, 10, 3), 3, {"strides": 2, "padding": "VALID"}),
    "unequal": ((2, 9, 10, 2), (5, 3), {"strides": (2, 3), "padding": ((1, 2), 0)}),
    "stride_beyond_filter": ((2, 9, 10, 2), 2, {"strides": 3}),
    "cropped": ((2, 9, 10, 2), 3, {"strides": 2, "padding": ((-1, 0), (2, -3))}),
    "without_strides": ((2, 5, 6, 2), 3, {}),
    "without_bias": ((2, 9, 9, 3), 3, {"strides": 2, "use_bias": False}),
    "one_dimension": ((2, 17, 3), 5, {"strides": 3, "padding": 1}),
    "three_dimensions": ((2, 7, 6, 5, 2), 3, {"strides": (2, 2, 1)}),
    "window_that_does_not_fit": ((2, 3, 9, 3), 7, {"strides": 2, "padding": "VALID"}),
    "empty_batch": ((0, 9, 9, 3), 3, {"strides": 2}),
}


# The rest of the geometries are tried in CI.
BY_DEFAULT = ("resnet_stem", "same_on_odd", "patches")


@pytest.mark.parametrize("case", slow_except(BY_DEFAULT, CASES))
def test_equals_conv(case, x64, generator):
    shape, size, fields = CASES[case]
    layers = [
        layer(4, size, **fields, param_dtype=jnp.float64)
        for layer in (SpaceToDepthConv, Conv)
    ]
    x = jnp.asarray(generator.normal(size=shape))
    chex.assert_trees_all_equal(*(layer.init(jax.random.key(0), x) for layer in layers))
    expected, shapes = jax.eval_shape(
        layers[1].init_with_output, jax.eval_shape(jax.random.key, 0), x
    )
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(generator.normal(size=leaf.shape)), shapes
    )
    dy = jnp.asarray(generator.normal(size=expected.shape))

    def output_and_gradients(layer):
        y, pullback = jax.vjp(layer.apply, variables, x)
        return y, pullback(dy)

    chex.assert_trees_all_close(
        *map(output_and_gradients, layers), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16, jnp.float32])
def test_promotes_as_conv_does(dtype):
    x = jnp.ones((1, 4, 4, 3), jnp.bfloat16)
    with jax.numpy_dtype_promotion("standard"):
        ours, theirs = (
            layer(2, 3, strides=2, dtype=dtype).init_with_output(jax.random.key(0), x)
            for layer in (SpaceToDepthConv, Conv)
        )
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, theirs)


@pytest.mark.parametrize("fields", [{"groups": 3}, {"dilation": 2}])
def test_refuses_what_it_cannot_rewrite(fields):
    layer = SpaceToDepthConv(3, 3, strides=2, **fields)
    with pytest.raises(ValueError, match=r"SpaceToDepthConv: got groups .*; use Conv"):
        layer.init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))


def test_refuses_what_conv_refuses():
    with pytest.raises(ValueError, match=r"kernel_size: got"):
        SpaceToDepthConv(3, (3, 3, 3)).init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
