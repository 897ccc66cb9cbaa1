"""`rematerialized` changes what is kept for the backward pass and nothing else."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from helpers.quick import nightly_except

from cnn_jax import kernels as K
from cnn_jax.analysis.residuals import residual_bytes
from cnn_jax.layers import BatchNorm, ConvNormActivation, Dropout, rematerialized


class Block(nn.Module):
    """Statistics, randomness and parameters: all that a block may have."""

    features: int
    activation: object = K.relu
    train: bool = True

    @nn.compact
    def __call__(self, x):
        norm = functools.partial(BatchNorm, use_running_average=not self.train)
        layer = functools.partial(
            ConvNormActivation, norm=norm, activation=self.activation
        )
        y = layer(2 * self.features, name="conv1")(x)
        y = Dropout(0.5, deterministic=not self.train, name="dropout")(y)
        return layer(self.features, name="conv2")(y)


class Network(nn.Module):
    make: object

    @nn.compact
    def __call__(self, x):
        for number in (1, 2, 3):
            x = self.make(name=f"block{number}")(x)
        return x


FACTORIES = {
    "partial": functools.partial(Block, features=4),
    "positional": functools.partial(Block, 4, K.silu),
    "of_a_partial": functools.partial(functools.partial(Block, 4), train=True),
    "inference": functools.partial(Block, 4, train=False),
}
KEYS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}


@pytest.fixture
def x(generator):
    return jnp.asarray(generator.normal(size=(4, 6, 6, 4)), jnp.float32)


def networks(factory):
    return Network(rematerialized(factory)), Network(factory)


@pytest.mark.parametrize("name", nightly_except(["of_a_partial"], FACTORIES))
def test_values_gradients_and_statistics_are_the_same(name, x, generator):
    dy = jnp.asarray(generator.normal(size=x.shape), jnp.float32)
    variables = Network(FACTORIES[name]).init(KEYS, x)

    @functools.partial(jax.jit, static_argnums=0)
    def everything(network, variables, x):
        def apply(params, x):
            return network.apply(
                {**variables, "params": params},
                x,
                rngs={"dropout": jax.random.key(2)},
                mutable=["batch_stats"],
            )

        y, pullback, updates = jax.vjp(apply, variables["params"], x, has_aux=True)
        return y, updates, pullback(dy)

    recomputed, kept = (
        everything(network, variables, x) for network in networks(FACTORIES[name])
    )
    chex.assert_trees_all_close(recomputed, kept, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FACTORIES)
def test_parameters_are_the_same(name, x):
    recomputed, kept = (network.init(KEYS, x) for network in networks(FACTORIES[name]))
    chex.assert_trees_all_equal(recomputed, kept)


def test_a_class_without_fields_to_fix(x):
    recomputed, kept = (make(4) for make in (rematerialized(Block), Block))
    variables = kept.init(KEYS, x)
    chex.assert_trees_all_equal(recomputed.init(KEYS, x), variables)


def test_only_what_goes_into_the_blocks_is_kept(x):
    def kept_bytes(network):
        variables = network.init(KEYS, x)
        leaves, tree = jax.tree.flatten(variables)

        def apply(x, *leaves):
            y, _ = network.apply(
                jax.tree.unflatten(tree, leaves),
                x,
                rngs={"dropout": jax.random.key(2)},
                mutable=["batch_stats"],
            )
            return y

        return residual_bytes(apply, x, *leaves), sum(leaf.nbytes for leaf in leaves)

    (recomputed, size), (kept, _) = map(kept_bytes, networks(FACTORIES["partial"]))
    # Three blocks' inputs, the variables, and a few bytes for the keys.
    assert recomputed <= 3 * x.nbytes + size + 100
    assert recomputed < 0.6 * kept
