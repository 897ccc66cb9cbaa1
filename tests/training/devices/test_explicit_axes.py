"""Training on a mesh of explicit axes, as `jax.make_mesh` makes it."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from helpers.quick import QUICK, nightly_except
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import cnn_jax
from cnn_jax import kernels as K
from cnn_jax import layers, sharding
from cnn_jax.training import StepOptions, TrainConfig, TrainState, eval_step, train_step
from cnn_jax.training.devices.spread import make_step
from cnn_jax.training.run.fit import fit


class Net(nn.Module):
    """A little of every kind of layer."""

    @nn.compact
    def __call__(self, x, *, train=False):
        """Returns the logits."""
        drop = {"deterministic": not train}
        x = layers.Conv(8, 3, name="conv")(x)
        norm = layers.BatchNorm(use_running_average=not train, name="norm")
        x = K.max_pool(norm(x, activation=K.relu), 2)
        x = layers.StochasticDepth(0.1, **drop, name="depth")(x)
        x = layers.DropBlock(0.1, 2, **drop, name="squares")(x)
        x = layers.SqueezeExcite(4, name="gate")(x)
        x = layers.GroupNorm(num_groups=2, name="groups")(x)
        x = layers.Dropout(0.2, **drop, name="drop")(x.reshape(x.shape[0], -1))
        return layers.Dense(10, name="head")(x)


@pytest.fixture
def mesh():
    return jax.make_mesh((8,), ("data",))


@pytest.fixture
def batch():
    images = jax.random.normal(jax.random.key(1), (16, 8, 8, 1))
    return {"image": images, "label": jnp.arange(16) % 10}


@pytest.fixture
def state(batch):
    create = functools.partial(TrainState.create, Net(), optax.sgd(0.1))
    return jax.jit(create)(jax.random.key(0), batch["image"])


STEPS = {
    "plain": {},
    "in parts": {"accumulate_steps": 2},
    "sharpness-aware": {"sam_radius": 0.05},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", nightly_except(["in parts"], STEPS))
def test_a_step_gives_the_numbers_without_a_mesh(kind, mesh, state, batch):
    step = jax.jit(functools.partial(train_step, options=StepOptions(**STEPS[kind])))
    key = jax.random.key(3)
    expected = step(state, batch, key)
    with jax.set_mesh(mesh):
        new_state, metrics = step(
            jax.device_put(state, P()), jax.device_put(batch, P("data")), key
        )
    for leaf in jax.tree.leaves((new_state, metrics)):
        assert leaf.sharding.is_fully_replicated
    chex.assert_trees_all_close(
        jax.device_get((new_state.variables, metrics)),
        jax.device_get((expected[0].variables, expected[1])),
        rtol=1e-5,
        atol=2e-6,
    )


def traced(step, *arguments):
    """Returns the specs of a step's results, from tracing alone."""
    results = jax.eval_shape(step, *arguments)
    return {
        tuple(leaf.sharding.spec) if leaf.sharding else ()
        for leaf in jax.tree.leaves(results)
    }


# Where every layer of the network occurs, at sizes that it takes.
SIZES = {"alexnet": 224, "inception_v3": 299, "xception": 96, "lenet5": 32}
# Traced in seconds; the others are the same layers, more of them.
SHALLOW = {"lenet5", "nin_cifar", "resnet20", "vgg8_cifar"}


@pytest.mark.parametrize("name", nightly_except(SHALLOW, QUICK))
def test_every_family_trains_and_evaluates(name, mesh):
    model = cnn_jax.create_model(name)
    size, channels = SIZES.get(name, 64), 1 if name == "lenet5" else 3
    image = jnp.zeros((1, size, size, channels))
    create = functools.partial(TrainState.create, model, optax.sgd(0.1))
    with jax.set_mesh(mesh):
        split = NamedSharding(jax.sharding.get_abstract_mesh(), P("data"))
        batch = {
            "image": jax.ShapeDtypeStruct(
                (16, *image.shape[1:]), jnp.float32, sharding=split
            ),
            "label": jax.ShapeDtypeStruct((16,), jnp.int32, sharding=split),
        }
        key = jax.random.key(0)
        state = jax.eval_shape(create, key, image)
        for step, extra in ((train_step, (key,)), (eval_step, ())):
            for spec in traced(step, state, batch, *extra):
                assert set(spec) <= {None}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["jit", "shard_map"])
def test_a_spread_step_under_a_callers_mesh(strategy, mesh, state, batch):
    """The step has a mesh of its own, whatever the caller has set."""
    key = jax.random.key(3)

    def run():
        step = make_step(train_step, strategy=strategy, mesh=sharding.make_mesh())
        # Each run's own: the step donates it.
        placed = jax.device_put(
            jax.device_get(state.replace(step=jnp.array(state.step))), step.state
        )
        parts = jax.device_put(jax.device_get(batch), step.batch(batch))
        new_state, metrics = step.jitted()(placed, parts, key)
        return jax.device_get((new_state.variables, metrics))

    expected = run()
    with jax.set_mesh(mesh):
        actual = run()
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.slow
def test_a_run_under_a_callers_mesh(mesh, digits):
    train, test = digits
    config = TrainConfig(epochs=1, batch_size=64)

    def run():
        return fit(Net(), train, test=test, config=config).state.params

    expected = run()
    with jax.set_mesh(mesh):
        actual = run()
    chex.assert_trees_all_equal(jax.device_get(actual), jax.device_get(expected))
