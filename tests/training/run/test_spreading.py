"""A run's step over devices that its configuration names."""

import functools

import jax
import numpy as np
import optax
import pytest

import cnn_jax
from cnn_jax import sharding, trees
from cnn_jax.training import TrainConfig, TrainState
from cnn_jax.training.run.spreading import configured_shardings, spread_step
from cnn_jax.training.step.training import step_options


def shapes(model):
    create = functools.partial(TrainState.create, model, optax.sgd(0.1))
    key = jax.eval_shape(functools.partial(jax.random.key, 0))
    return jax.eval_shape(create, key, np.zeros((1, 32, 32, 1), np.float32))


def test_rules_of_the_configuration_split_the_state():
    state = shapes(cnn_jax.create_model("lenet5"))
    rules = ((r"f6/kernel$", "none,fsdp"),)
    config = TrainConfig(mesh="data=1,fsdp=2", sharding_rules=rules)
    mesh = sharding.make_mesh(jax.devices()[:2], config.mesh)
    found = trees.named_leaves(configured_shardings(state, config, mesh))
    assert tuple(found["params/f6/kernel"].spec) == (None, "fsdp")
    whole = sharding.make_mesh(jax.devices()[:2])
    everywhere = configured_shardings(state, TrainConfig(), whole)
    leaves = jax.tree.leaves(everywhere)
    assert all(leaf.is_fully_replicated for leaf in leaves)


def test_the_configuration_says_how_the_step_is_spread():
    state = shapes(cnn_jax.create_model("lenet5"))
    mesh = sharding.make_mesh(jax.devices()[:2])
    config = TrainConfig(parallel="shard_map", batch_norm_scope="device")
    options = step_options(config)
    shardings = configured_shardings(state, config, mesh)
    step = spread_step(options, config, mesh, shardings)
    assert step.mesh == mesh
    config = TrainConfig(batch_norm_scope=3)
    with pytest.raises(ValueError, match="batch_norm_scope: got 3"):
        spread_step(options, config, mesh, shardings)
