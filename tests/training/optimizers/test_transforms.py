"""L2-SP, rates by depth and gradual unfreezing against formulas written here."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import trees
from cnn_jax.training import TrainConfig, make_optimizer, make_schedule
from cnn_jax.training.optimizers.roles import ParameterRoles

RATE, DECAY, ANCHOR = 0.1, 0.05, 0.3
ROLES = ParameterRoles(
    head=frozenset({"head/kernel"}),
    depths={"stem/kernel": 2, "body/kernel": 1, "body/bias": 1, "head/kernel": 0},
)
COMMON = {
    "schedule": "constant",
    "learning_rate": RATE,
    "weight_decay": DECAY,
    "nesterov": False,
}


def make_params():
    return {
        "stem": {"kernel": jnp.array([1.0, -2.0, -0.0])},
        "body": {"kernel": jnp.array([0.5, 3.0]), "bias": jnp.array([-1.0])},
        "head": {"kernel": jnp.array([2.0, 0.25])},
    }


def gradient_of(params):
    return jax.tree.map(lambda leaf: 0.5 * leaf + 1, params)


def descend(config, steps, params=None, gradient_fn=gradient_of):
    """Returns the parameters after every step, from the start on, and the state."""
    optimizer = make_optimizer(
        config, make_schedule(config, 10), roles=ROLES, steps_per_epoch=10
    )
    params = make_params() if params is None else params
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    path = [params]
    for _ in range(steps):
        updates, state = update(gradient_fn(path[-1]), state, path[-1])
        path.append(jax.tree.map(jnp.add, path[-1], updates))
    return path, state


def decay_of(name, value, start):
    if name.endswith("bias"):
        return 0.0
    return DECAY * value if name == "head/kernel" else ANCHOR * (value - start)


def test_l2_sp_joins_the_gradient_of_sgd():
    config = TrainConfig(**COMMON, momentum=0.9, l2_sp=ANCHOR)
    path, _ = descend(config, steps=4)
    for name, start in trees.named_leaves(make_params()).items():
        value = start = np.asarray(start, np.float64)
        velocity = 0.0
        for _ in range(4):
            gradient = 0.5 * value + 1 + decay_of(name, value, start)
            velocity = 0.9 * velocity + gradient
            value = value - RATE * velocity
        found = trees.named_leaves(path[-1])[name]
        np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-5)


def test_l2_sp_is_apart_from_adamws_moments():
    config = TrainConfig(**COMMON, optimizer="adamw", l2_sp=ANCHOR)
    path, _ = descend(config, steps=4)
    for name, start in trees.named_leaves(make_params()).items():
        value = start = np.asarray(start, np.float64)
        mean = square = 0.0
        for step in range(1, 5):
            gradient = 0.5 * value + 1
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            direction = mean / (1 - 0.9**step)
            direction /= np.sqrt(square / (1 - 0.999**step)) + 1e-8
            value = value - RATE * (direction + decay_of(name, value, start))
        found = trees.named_leaves(path[-1])[name]
        np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lamb", "rmsprop", "muon"])
def test_l2_sp_pulls_back_under_every_optimizer(name):
    params = {
        "stem": {"kernel": jnp.eye(3)},
        "body": {"kernel": jnp.eye(2), "bias": jnp.ones(1)},
        "head": {"kernel": jnp.eye(2)},
    }

    def away(params):
        return jax.tree.map(jnp.ones_like, params)

    ends = []
    for l2_sp in (0.0, 5.0):
        config = TrainConfig(
            **{**COMMON, "weight_decay": 0.0}, optimizer=name, l2_sp=l2_sp
        )
        path, _ = descend(config, 6, params, away)
        ends.append(path[-1])
    free, held = (np.abs(end["stem"]["kernel"] - jnp.eye(3)).max() for end in ends)
    assert held < free
    chex.assert_trees_all_close(ends[0]["head"], ends[1]["head"], rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_rates_fall_with_depth(name):
    config = TrainConfig(**COMMON, optimizer=name, learning_rate_groups=(("bias", 3),))
    whole, _ = descend(config, steps=1)
    config = TrainConfig(
        **COMMON,
        optimizer=name,
        learning_rate_groups=(("bias", 3),),
        layer_decay=0.25,
    )
    found, _ = descend(config, steps=1)
    factors = {"stem/kernel": 1 / 16, "body/kernel": 1 / 4, "body/bias": 1 / 4}
    for path, start in trees.named_leaves(make_params()).items():
        moved, expected = (
            trees.named_leaves(each[1])[path] - start for each in (found, whole)
        )
        expected = expected * factors.get(path, 1)
        np.testing.assert_allclose(moved, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "l2_sp"),
    [
        ("adamw", ANCHOR),
        pytest.param("sgd", ANCHOR, marks=pytest.mark.slow),
        pytest.param("muon", 0.0, marks=pytest.mark.slow),
    ],
)
def test_what_is_unfrozen_begins_as_if_the_run_began_then(name, l2_sp):
    options = {**COMMON, "schedule": "linear", "epochs": 2, "l2_sp": l2_sp}
    config = TrainConfig(
        **options, optimizer=name, unfreeze_epochs=(("^stem/", 0.3), ("kernel", 0.1))
    )
    path, _ = descend(config, steps=7)
    firsts = {"stem/kernel": 3, "body/kernel": 1, "body/bias": 0, "head/kernel": 1}
    for leaf, first in firsts.items():
        values = [trees.named_leaves(params)[leaf] for params in path]
        for value in values[: first + 1]:
            assert np.asarray(value).tobytes() == np.asarray(values[0]).tobytes()
        assert np.any(np.asarray(values[first + 1]) != values[0])
        # The same optimizer, begun at this step with the rates that are left.
        alone = make_optimizer(
            TrainConfig(**options, optimizer=name),
            lambda count, first=first: RATE * (1 - (count + first) / 20),
            roles=ROLES,
        )
        params = make_params()
        state = alone.init(params)
        for step in range(first, 7):
            updates, state = alone.update(gradient_of(params), state, params)
            params = jax.tree.map(jnp.add, params, updates)
            expected = trees.named_leaves(params)[leaf]
            np.testing.assert_allclose(values[step + 1], expected, rtol=1e-5, atol=1e-6)


def test_what_waits_keeps_its_moments_at_their_start():
    config = TrainConfig(**COMMON, unfreeze_epochs=(("^stem/", 0.3),))
    _, state = descend(config, steps=3)
    (waiting,) = (
        leaf
        for path, leaf in trees.named_leaves(state).items()
        if path.endswith("trace/stem/kernel")
    )
    np.testing.assert_array_equal(waiting, np.zeros(3))


def test_facts_that_are_needed_must_be_given():
    schedule = make_schedule(TrainConfig(), 10)
    config = TrainConfig(batch_norm="adapt", l2_sp=0.1, layer_decay=0.5)
    with pytest.raises(ValueError, match="with batch_norm, l2_sp, layer_decay"):
        make_optimizer(config, schedule)
    config = TrainConfig(unfreeze_epochs=(("x", 1.0),))
    with pytest.raises(ValueError, match="steps_per_epoch"):
        make_optimizer(config, schedule)
    optimizer = make_optimizer(config, schedule, steps_per_epoch=10)
    with pytest.raises(ValueError, match=r"unfreeze_epochs: .*'x' matches none"):
        optimizer.init(make_params())
