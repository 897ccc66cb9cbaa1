"""Layers that drop something: masks, scaling, keys, and Flax's Dropout."""

import chex
import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import kernels as K
from cnn_jax.layers import DropBlock, Dropout, SpatialDropout, StochasticDepth

BROADCAST = {Dropout: (), StochasticDepth: (1, 2, 3), SpatialDropout: (1, 2)}
LAYERS = [*BROADCAST, DropBlock]


def flax_counterpart(layer, rate):
    return nn.Dropout(rate, broadcast_dims=BROADCAST[layer])


@pytest.mark.parametrize("layer", BROADCAST)
def test_equals_flax(layer, generator):
    x = jnp.asarray(generator.normal(size=(16, 4, 4, 3)), jnp.float32)
    dy = jnp.asarray(generator.normal(size=x.shape), jnp.float32)

    def output_and_gradient(module):
        y, pullback = jax.vjp(
            lambda x: module.apply(
                {}, x, deterministic=False, rngs={"dropout": jax.random.key(3)}
            ),
            x,
        )
        return y, pullback(dy)

    y, dx = output_and_gradient(layer(0.3))
    chex.assert_trees_all_close(
        (y, dx), output_and_gradient(flax_counterpart(layer, 0.3)), rtol=1e-6
    )
    assert 0 < np.count_nonzero(y) < y.size


def test_drop_block_is_the_kernel_under_the_layer_s_key(generator):
    x = jnp.asarray(generator.normal(size=(4, 6, 6, 3)), jnp.float32)
    keys = []

    class Watched(DropBlock):
        def make_rng(self, name="params"):
            keys.append(super().make_rng(name))
            return keys[-1]

    y = Watched(0.4, block_size=3, deterministic=False).apply(
        {}, x, rngs={"dropout": jax.random.key(3)}
    )
    chex.assert_trees_all_equal(y, K.drop_block(x, keys[0], 0.4, block_size=3))
    assert 0 < np.count_nonzero(y) < y.size


@pytest.mark.parametrize("layer", [Dropout, StochasticDepth])
def test_drops_at_rate_and_rescales(layer):
    x = jnp.ones((4000, 1, 1, 2))
    y = layer(0.25, deterministic=False).apply(
        {}, x, rngs={"dropout": jax.random.key(0)}
    )
    dropped = np.asarray(y) == 0.0
    np.testing.assert_allclose(np.asarray(y)[~dropped], 1 / 0.75, rtol=1e-6)
    # Five standard deviations of a mean of 4000 draws.
    assert abs(dropped[..., 0].mean() - 0.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5
    assert np.array_equal(dropped[..., 0], dropped[..., 1]) == (
        layer is StochasticDepth
    )


@pytest.mark.parametrize("layer", LAYERS)
def test_is_the_identity_without_a_key(layer):
    x = jnp.arange(12.0).reshape(3, 2, 2)
    chex.assert_trees_all_equal(layer(0.5).apply({}, x, deterministic=True), x)
    chex.assert_trees_all_equal(layer(0.0).apply({}, x, deterministic=False), x)
    assert layer(0.5).init(jax.random.key(0), x, deterministic=True) == {}


@pytest.mark.parametrize("layer", LAYERS)
def test_needs_a_key_in_training(layer):
    with pytest.raises(flax.errors.InvalidRngError):
        layer(0.5).apply({}, jnp.ones((3, 2, 2)), deterministic=False)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_refuses_rate(layer, rate):
    with pytest.raises(ValueError, match="rate"):
        layer(rate).apply({}, jnp.ones((3, 2, 2)), deterministic=True)
