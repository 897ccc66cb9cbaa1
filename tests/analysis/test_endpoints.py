"""Networks cut at their endpoints: the parts are the whole, for every family."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.quick import QUICK, slow_except

import cnn_jax
from cnn_jax.analysis.endpoints import TracedNetwork, feature_maps

# Long programs, of which a trace alone takes a second.
LONG = {
    "densenet121",
    "googlenet",
    "inception_v3",
    "mnasnet0_5",
    "mobilenet_v1_0_25",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "xception",
}
MARKED = slow_except({*QUICK} - LONG, QUICK)


@pytest.mark.parametrize("name", MARKED)
def test_every_model_can_be_cut_at_every_map(name, abstract_variables):
    model, info = cnn_jax.create_model(name), cnn_jax.model_info(name)
    images = jax.ShapeDtypeStruct((2, *info.input_shape), jnp.float32)
    seen = []

    def cut(variables, images):
        network = TracedNetwork(model, variables, images)
        seen.append(network)
        cuts = {}
        for endpoint in network.maps:
            activations, logits_fn = network.cut(endpoint, variables, images)
            cuts[endpoint] = activations
        logits, pull_back = jax.vjp(logits_fn, activations)
        return cuts, logits, pull_back(logits)[0]

    cuts, logits, gradient = jax.eval_shape(cut, abstract_variables(name), images)
    (network,) = seen
    assert logits.shape == network.logits.shape == (2, info.num_classes)
    assert len(cuts) >= 3
    for endpoint, activations in cuts.items():
        assert activations.shape == network.endpoints[endpoint].shape
    assert gradient.shape == cuts[network.maps[-1]].shape
    # As the network reaches them, not as their names are sorted.
    sizes = [network.endpoints[endpoint].shape[1] for endpoint in network.maps]
    assert sizes == sorted(sizes, reverse=True)


def test_the_parts_give_the_same_logits(small_network):
    model, variables, images = small_network
    expected, endpoints = model.apply(variables, images, endpoints=True)
    network = TracedNetwork(model, variables, images)
    assert list(network.endpoints) == list(endpoints)
    assert network.maps == ("stem", "stage1", "stage2")
    for name in endpoints:
        activations, logits_fn = network.cut(name, variables, images)
        np.testing.assert_allclose(activations, endpoints[name], rtol=1e-12)
        np.testing.assert_allclose(logits_fn(activations), expected, rtol=1e-12)
        # A function of the activations alone: the images no longer matter.
        other = logits_fn(2 * activations)
        assert np.abs(other - expected).max() > 1e-3


class WithSideBranch(nn.Module):
    """An endpoint that the logits do not see, and one that is their source."""

    @nn.compact
    def __call__(self, x, *, train=False, endpoints=False):
        named = {"side": 2 * x, "features": x.mean((1, 2))}
        logits = named["logits"] = named["features"]
        return (logits, named) if endpoints else logits


def test_endpoints_that_lead_nowhere_or_are_the_logits():
    model, images = WithSideBranch(), jnp.ones((2, 4, 4, 3))
    variables = {}
    network = TracedNetwork(model, variables, images)
    with pytest.raises(ValueError, match="'side', on which the logits do not depend"):
        network.cut("side", variables, images)
    with pytest.raises(ValueError, match=r"got 'stage9', expected one of \['side'"):
        network.cut("stage9", variables, images)
    activations, logits_fn = network.cut("logits", variables, images)
    np.testing.assert_array_equal(logits_fn(activations + 1), activations + 1)


class WithAuxiliaryHead(nn.Module):
    """Products that the logits depend on, around one that they do not."""

    @nn.compact
    def __call__(self, x, *, train=False, endpoints=False):
        named = {"stage1": nn.Dense(3, name="first")(x)}
        if train or endpoints or self.is_initializing():
            named["aux1"] = nn.Dense(2, name="aux1")(named["stage1"].mean((1, 2)))
        logits = nn.Dense(2, name="head")(named["stage1"].mean((1, 2)))
        return (logits, named) if endpoints else logits


def test_an_auxiliary_head_is_no_place_to_cut_and_does_not_run_elsewhere():
    model, images = WithAuxiliaryHead(), jnp.ones((2, 4, 4, 3))
    variables = model.init(jax.random.key(0), images)
    network = TracedNetwork(model, variables, images)
    assert [*network.endpoints] == ["stage1", "aux1"]
    assert network.maps == ("stage1",)
    with pytest.raises(ValueError, match="'aux1', on which the logits do not depend"):
        network.cut("aux1", variables, images)
    assert [*feature_maps(model, variables, images)] == ["stage1"]

    def parts(variables, images):
        activations, logits_fn = network.cut("stage1", variables, images)
        return activations, logits_fn(activations)

    program = str(jax.make_jaxpr(parts)(variables, images))
    assert program.count("dot_general[") == 2
    _, logits = parts(variables, images)
    expected = model.apply(variables, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-6)


def test_feature_maps(small_network):
    model, variables, images = small_network
    _, endpoints = model.apply(variables, images, endpoints=True)
    maps = feature_maps(model, variables, images)
    assert list(maps) == ["stem", "stage1", "stage2"]
    np.testing.assert_array_equal(maps["stage1"], endpoints["stage1"])
    chosen = feature_maps(model, variables, images, endpoints=["features", "stem"])
    assert list(chosen) == ["features", "stem"]
    assert chosen["features"].shape == (3, 6)
    with pytest.raises(ValueError, match=r"got 'stage3', 'x', expected some of"):
        feature_maps(model, variables, images, endpoints=["stage3", "stem", "x"])
