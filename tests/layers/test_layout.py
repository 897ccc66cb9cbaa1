"""Layers and models that get an input with its channels first."""

import functools

import jax
import jax.numpy as jnp
import pytest

import cnn_jax
from cnn_jax import layers

LAYERS = {
    "Conv": layers.Conv(8, 3),
    "Conv, depthwise": layers.Conv(12, 3, groups=12),
    "ConvTranspose": layers.ConvTranspose(8, 3),
    "BatchNorm": layers.BatchNorm(use_running_average=False),
    "BatchNorm, inference": layers.BatchNorm(use_running_average=True),
    "LayerNorm": layers.LayerNorm(),
    "GroupNorm": layers.GroupNorm(num_groups=4),
    "Dense": layers.Dense(5),
    "SqueezeExcite": layers.SqueezeExcite(4),
}


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize("label", LAYERS)
def test_a_layer_says_which_axes_to_move(label):
    layer = LAYERS[label]
    variables = jax.eval_shape(layer.init, jax.random.key(0), array(8, 6, 7, 12))
    apply = functools.partial(layer.apply, mutable=["batch_stats"])
    with pytest.raises(
        ValueError,
        match=rf"{type(layer).__name__}: got x .*expected 12 channels; .* x looks like "
        r"NCHW: jnp.moveaxis\(x, 1, -1\)",
    ):
        jax.eval_shape(apply, variables, array(8, 12, 6, 7))


@pytest.mark.parametrize("name", ["resnet20", "lenet5", "mobilenet_v3_small"])
def test_a_model_says_so_before_it_has_parameters(name):
    model = cnn_jax.create_model(name)
    init = functools.partial(model.init, jax.random.key(0))
    with pytest.raises(ValueError, match=r"x looks like NCHW: jnp.moveaxis\(x, 1, -1"):
        jax.eval_shape(init, array(8, 3, 64, 64))
    with pytest.raises(ValueError, match=r"jnp.moveaxis\(x, 0, -1\)\[None\]"):
        jax.eval_shape(init, array(3, 64, 64))
    with pytest.raises(ValueError, match=r"x\[None\]"):
        jax.eval_shape(init, array(64, 64, 3))


def test_a_model_of_many_channels_says_so_by_its_first_layer():
    model = cnn_jax.create_model("resnet20")
    variables = jax.eval_shape(model.init, jax.random.key(0), array(2, 32, 32, 12))
    with pytest.raises(ValueError, match=r"expected 12 channels; .* NCHW"):
        jax.eval_shape(model.apply, variables, array(2, 12, 32, 32))


@pytest.mark.parametrize(
    ("shape", "in_channels"),
    [
        ((8, 3, 16, 16), None),
        ((3, 16, 16), None),
        ((16, 16, 3), None),
        ((8, 1, 64, 64), 3),
        ((1, 64, 64), 3),
        ((64, 64), None),
        ((2, 64, 64, 3, 1), None),
    ],
)
def test_a_model_advises_nothing_that_it_refuses(shape, in_channels):
    model = cnn_jax.create_model("lenet5", in_channels=in_channels)
    init = functools.partial(model.init, jax.random.key(0))
    with pytest.raises(ValueError, match=r"expected \(n, height, width") as error:
        jax.eval_shape(init, array(*shape))
    assert "x looks" not in str(error.value)
    assert "[None]" not in str(error.value)


def test_a_layer_of_one_dimension_asks_for_no_images():
    layer = layers.Conv(8, 3)
    variables = jax.eval_shape(layer.init, jax.random.key(0), array(8, 6, 12))
    with pytest.raises(Exception, match=r"kernel|groups") as error:
        jax.eval_shape(layer.apply, variables, array(12, 6, 7))
    assert "moveaxis" not in str(error.value)
