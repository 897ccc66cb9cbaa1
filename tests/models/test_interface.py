"""The number of channels that a model is made for."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.quick import nightly_except, smallest_of_each_family

import cnn_jax
from cnn_jax.analysis.summary import summarize
from cnn_jax.layers import abstract_variables
from cnn_jax.models.registry import registered_as, sized_for
from cnn_jax.trees import named_leaves

QUICK = ("lenet5", "resnet20", "vgg8_cifar")
FAMILIES = nightly_except(QUICK, smallest_of_each_family())


def leaves_for(name, channels, **fields):
    """Returns path -> shape of a model's variables."""
    model = cnn_jax.create_model(name, **fields)
    size = cnn_jax.model_info(name).input_size
    images = jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)
    variables = abstract_variables(model, images)
    return {path: leaf.shape for path, leaf in named_leaves(variables).items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_any_number(name):
    usual = cnn_jax.model_info(name).input_shape[-1]
    trees = {}
    for channels in (1, 3, 5):
        trees[channels] = leaves_for(name, channels, in_channels=channels)
        with pytest.raises(ValueError, match=rf"width, {channels}\), as the model's"):
            leaves_for(name, channels + 1, in_channels=channels)
    assert trees[usual] == leaves_for(name, usual)
    for channels, tree in trees.items():
        changed = [path for path in tree if tree[path] != trees[4 - usual][path]]
        if channels != 4 - usual:
            (path,) = changed
            *spatial, _, features = trees[usual][path]
            assert tree[path] == (*spatial, channels, features)


def test_summary_and_size_follow():
    info = cnn_jax.model_info("resnet20")
    model = cnn_jax.create_model("resnet20", in_channels=5)
    assert sized_for(model) == (32, 32, 5)
    summary = summarize(model, sized_for(model))
    assert summary.parameters == info.parameters + 2 * 9 * 16
    assert summary.macs == info.macs + 2 * 9 * 16 * 32 * 32


def test_any_number_is_taken_where_none_is_said():
    for channels in (1, 2, 3, 7):
        assert leaves_for("lenet5", channels)["params/c1/kernel"][2] == channels


@pytest.mark.parametrize("call", ["init", "apply"])
def test_other_channels_are_refused_before_a_layer_is_called(call):
    model = cnn_jax.create_model("resnet20", in_channels=1)
    images = np.zeros((2, 8, 8, 3), np.float32)
    called = []

    def record(method, positional, named, context):
        called.append(type(context.module).__name__)
        return method(*positional, **named)

    message = (
        r"^ResNet: got an input of shape \(2, 8, 8, 3\), expected \(n, height, width, "
        r"1\), as the model's in_channels says; .* or make one with in_channels=3\."
    )
    given = jax.random.key(0) if call == "init" else {"params": {}}
    with nn.intercept_methods(record), pytest.raises(ValueError, match=message):
        getattr(model, call)(given, images, train=False)
    assert set(called) == {"ResNet"}


@pytest.mark.parametrize("number", [0, -1, 2.0, True, "3", 10**9, [3]])
def test_the_number_has_a_range(number):
    with pytest.raises(ValueError, match=r"^resnet20: in_channels: got .*, expected"):
        cnn_jax.create_model("resnet20", in_channels=number)


def test_it_is_known_of_a_model():
    for channels in (1, 3):
        model = cnn_jax.create_model("resnet20", in_channels=channels)
        assert registered_as(model) == ("resnet20", {"in_channels": channels})
