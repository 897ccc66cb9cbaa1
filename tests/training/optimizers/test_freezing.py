"""Frozen parameters stay, bit by bit; the three meanings of batch norm in training."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.staged import HEAD, IMAGES, NORMS, StagedNet, make_batch, make_variables
from helpers.ten_steps import QUICK

from cnn_jax import create_model, sharding, trees
from cnn_jax.kernels import textbook
from cnn_jax.layers import frozen_statistics
from cnn_jax.training import (
    TrainConfig,
    TrainState,
    make_optimizer,
    make_schedule,
    state_options,
    step_options,
    train_step,
)
from cnn_jax.training.devices.spread import make_step
from cnn_jax.training.optimizers.roles import required_roles
from cnn_jax.transfer.policies import freeze_backbone

STEPS_PER_EPOCH = 10
PLAIN = TrainConfig(
    epochs=10,
    learning_rate=0.05,
    schedule="constant",
    weight_decay=0.01,
    decayed_parameters=(".",),
)
ALL_ON = dataclasses.replace(
    PLAIN,
    optimizer="adamw",
    learning_rate=0.003,
    maximum_gradient_norm=1.0,
    accumulate_steps=2,
    sam_radius=0.05,
    ema_decay=0.9,
    l2_sp=0.01,
    layer_decay=0.5,
)


jitted = functools.partial(jax.jit, compiler_options=QUICK)


def make_state(config, model, variables):
    optimizer = make_optimizer(
        config,
        make_schedule(config, STEPS_PER_EPOCH),
        roles=required_roles(config, model, IMAGES),
        steps_per_epoch=STEPS_PER_EPOCH,
    )
    return TrainState.create(
        model,
        optimizer,
        jax.random.key(0),
        jnp.zeros(IMAGES.shape),
        variables=variables,
        **state_options(config),
    )


def take_steps(config, *num_steps, model=None, variables=None):
    """Returns the state before, and after each number of steps on different batches."""
    model = model or StagedNet()
    step = functools.partial(train_step, options=step_options(config, STEPS_PER_EPOCH))

    def run(variables, num_steps):
        def advance(number, state):
            key = jax.random.fold_in(jax.random.key(5), number)
            return step(state, make_batch(number), key)[0]

        start = make_state(config, model, variables)
        return start, jax.lax.fori_loop(0, num_steps, advance, start)

    variables = make_variables() if variables is None else variables
    run = jitted(run)
    ends = [run(variables, each) for each in num_steps]
    return ends[0][0], *(end for _, end in ends)


def changed(before, after):
    """Returns the paths of the leaves that differ in a bit."""
    before, after = trees.named_leaves(before), trees.named_leaves(after)
    return {
        path
        for path, leaf in before.items()
        if np.asarray(leaf).tobytes() != np.asarray(after[path]).tobytes()
    }


def frozen_backbone(config):
    return freeze_backbone(config, StagedNet(), IMAGES)


def with_norm(policy):
    return lambda config: dataclasses.replace(config, batch_norm=policy)


KERNELS = {"first/kernel", "second/kernel", "head/kernel", "head/bias"}
POLICIES = {
    "train": (with_norm("train"), KERNELS | NORMS, True),
    "adapt": (with_norm("adapt"), KERNELS, True),
    "frozen": (with_norm("frozen"), KERNELS, False),
    "backbone": (frozen_backbone, HEAD, False),
}


@pytest.mark.parametrize(
    "config",
    [PLAIN, pytest.param(ALL_ON, marks=pytest.mark.slow)],
    ids=["plain", "all"],
)
@pytest.mark.parametrize(
    "name",
    [pytest.param("train", marks=pytest.mark.slow), "adapt", "frozen", "backbone"],
)
def test_after_100_steps_only_that_has_changed_which_should(name, config):
    make, moving, statistics_move = POLICIES[name]
    config = make(config)
    start, end = take_steps(config, 100)
    statistics = {
        f"{norm}_norm/{leaf}"
        for norm in ("first", "second")
        for leaf in ("mean", "var")
    }
    pairs = [(start.variables, end.variables)]
    if config.ema_decay:
        pairs.append((start.average, end.average))
    for before, after in pairs:
        assert changed(before["params"], after["params"]) == moving
        found = changed(before["batch_stats"], after["batch_stats"])
        assert found == (statistics if statistics_move else set())
    every = set(trees.named_leaves(start.params))
    paths = list(trees.named_leaves(end.opt_state))
    kept = {path for path in every if any(each.endswith(path) for each in paths)}
    assert kept == moving
    chex.assert_tree_all_finite(end.params)


def convolve(images, kernel):
    return textbook.conv(images, np.asarray(kernel, np.float64), None, strides=2)


def forward(variables, images, by_batch):
    """Returns the mean loss and the batch's statistics, in NumPy."""
    params, running = variables["params"], variables["batch_stats"]
    x, found = np.asarray(images, np.float64), {}
    for name in ("second", "first"):
        x = convolve(x, params[name]["kernel"])
        norm, statistics = params[f"{name}_norm"], running[f"{name}_norm"]
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        found[f"{name}_norm"] = {"mean": mean, "var": var}
        if not by_batch:
            mean, var = (np.asarray(statistics[each]) for each in ("mean", "var"))
        x = (x - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"]
        x = np.maximum(x, 0)
    logits = x.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]
    logits = np.asarray(logits, np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = np.arange(len(logits)) % 10
    return -np.log(shares[np.arange(len(logits)), labels]).mean(), found


@pytest.mark.parametrize(
    "policy", [pytest.param("train", marks=pytest.mark.slow), "adapt", "frozen"]
)
def test_batch_norm_means_what_the_formulas_say(policy):
    variables, batch = jax.device_get(make_variables()), make_batch(3)
    config = dataclasses.replace(PLAIN, batch_norm=policy)
    state = make_state(config, StagedNet(dropout_rate=0.0), variables)
    step = jitted(functools.partial(train_step, options=step_options(config)))
    after, metrics = step(state, batch, jax.random.key(0))
    loss, statistics = forward(variables, batch["image"], by_batch=policy != "frozen")
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-5)
    other, _ = forward(variables, batch["image"], by_batch=policy == "frozen")
    assert abs(other - loss) > 1e-2
    expected = variables["batch_stats"]
    if policy != "frozen":
        expected = jax.tree.map(
            lambda old, new: 0.9 * old + 0.1 * new, expected, statistics
        )
    chex.assert_trees_all_close(after.batch_stats, expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["jit", "shard_map", "pmap"])
def test_frozen_statistics_are_frozen_on_every_device(strategy):
    config = dataclasses.replace(PLAIN, batch_norm="frozen")
    model = StagedNet(dropout_rate=0.0)
    state, batch = make_state(config, model, make_variables()), make_batch()
    step_fn = functools.partial(train_step, options=step_options(config))
    expected, metrics = jitted(step_fn)(state, batch, jax.random.key(0))
    spread = make_step(
        step_fn, strategy=strategy, mesh=sharding.make_mesh(), batch_norm_scope=2
    )
    found, spread_metrics = jitted(spread)(state, batch, jax.random.key(0))
    chex.assert_trees_all_close(found.params, expected.params, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(spread_metrics, metrics, rtol=1e-5)
    assert not changed(state.batch_stats, found.batch_stats)
    assert not changed(state.params, found.params) & NORMS


def test_batch_norm_that_cannot_be_frozen_is_an_error(tiny_net):
    # Flax's own layer does not know of the scope.
    config = dataclasses.replace(PLAIN, batch_norm="frozen")
    state = jax.eval_shape(functools.partial(make_state, config, tiny_net(), None))
    with pytest.raises(ValueError, match=r"cnn_jax\.layers\.BatchNorm"):
        jax.eval_shape(
            functools.partial(train_step, options=step_options(config)),
            state,
            make_batch(),
            jax.random.key(0),
        )


@pytest.mark.slow
def test_before_its_time_a_parameter_is_as_good_as_frozen():
    patterns = ("^second", "^first_norm/scale$")
    config = dataclasses.replace(PLAIN, sam_radius=0.05, maximum_gradient_norm=0.5)
    later = dataclasses.replace(
        config, unfreeze_epochs=tuple((pattern, 0.5) for pattern in patterns)
    )
    frozen = dataclasses.replace(config, frozen_parameters=patterns)
    start, found, after = take_steps(later, 5, 6)
    _, expected = take_steps(frozen, 5)
    chex.assert_trees_all_close(found.params, expected.params, rtol=1e-6, atol=1e-7)
    held = {path for path in trees.named_leaves(start.params) if "second" in path}
    assert not changed(start.params, found.params) & (held | {"first_norm/scale"})
    assert changed(start.params, after.params) == KERNELS | NORMS


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "remat"),
    [("resnet20", False), ("resnet20", True), ("efficientnet_cifar", True)],
)
def test_models_of_the_registry_freeze_their_statistics(name, remat):
    model = create_model(name, num_classes=10, remat=remat)
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    variables = jax.jit(functools.partial(model.init, train=False))(
        jax.random.key(1), images
    )

    @jax.jit
    def differentiate(variables, images):
        def loss_fn(params):
            logits, updates = model.apply(
                {**variables, "params": params},
                images,
                train=True,
                rngs={"dropout": jax.random.key(2)},
                mutable=["batch_stats"],
            )
            return jnp.sum(logits**2), updates

        return jax.grad(loss_fn, has_aux=True)(variables["params"])

    with frozen_statistics():
        gradients, updates = differentiate(variables, images)
    assert not changed(updates.get("batch_stats", {}), variables["batch_stats"])
    chex.assert_tree_all_finite(gradients)
    _, moved = differentiate(variables, images)
    found = changed(moved["batch_stats"], variables["batch_stats"])
    assert found == set(trees.named_leaves(variables["batch_stats"]))
