"""The pure steps: their arithmetic, and what importing them brings along."""

import functools
import os
import pathlib
import subprocess
import sys
import textwrap

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax.training import StepOptions, TrainState, eval_step, train_step

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture
def batch():
    images = jax.random.normal(jax.random.key(1), (16, 8, 8, 1))
    return {"image": images, "label": jnp.arange(16) % 10}


@pytest.fixture
def state(tiny_net, batch):
    create = functools.partial(TrainState.create, tiny_net(), optax.sgd(0.1))
    return jax.jit(create)(jax.random.key(0), batch["image"])


def cross_entropy(logits, labels, smoothing=0.0):
    targets = np.eye(10)[labels] * (1 - smoothing) + smoothing / 10
    logits = np.asarray(logits, np.float64)
    return -np.sum(
        targets * (logits - np.log(np.exp(logits).sum(-1, keepdims=True))), -1
    )


def test_a_step_descends_the_mean_loss(state, batch):
    key = jax.random.key(3)

    def loss_fn(params):
        logits, updates = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            batch["image"],
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy(
            logits, optax.smooth_labels(jax.nn.one_hot(batch["label"], 10), 0.1)
        )
        return losses.mean(), (logits, updates["batch_stats"])

    (loss, (logits, batch_stats)), gradients = jax.value_and_grad(
        loss_fn, has_aux=True
    )(state.params)
    new_state, metrics = jax.jit(train_step, static_argnames="options")(
        state, batch, key, options=StepOptions(label_smoothing=0.1)
    )
    expected = jax.tree.map(lambda w, g: w - 0.1 * g, state.params, gradients)
    chex.assert_trees_all_close(new_state.params, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(new_state.batch_stats, batch_stats, rtol=1e-5)
    assert int(new_state.step) == 1
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-5)
    right = np.argmax(logits, -1) == batch["label"]
    assert float(metrics["accuracy"]) == pytest.approx(right.mean())


def test_probabilities_serve_as_labels(state, batch):
    soft = {**batch, "label": jax.nn.one_hot(batch["label"], 10)}
    key = jax.random.key(3)
    for step in (
        lambda each: train_step(state, each, key)[1],
        lambda each: eval_step(state, each),
    ):
        chex.assert_trees_all_close(step(soft), step(batch), rtol=1e-5)


def test_evaluation_sums_over_the_examples_that_count(state, batch):
    image = batch["image"].at[10:].set(jnp.nan)
    mask = jnp.where(jnp.arange(16) < 10, 1.0, 0.0)
    sums = jax.jit(eval_step)(state, {**batch, "image": image, "mask": mask})
    logits = state.apply_fn(state.variables, batch["image"][:10], train=False)
    labels = np.asarray(batch["label"][:10])
    assert float(sums["count"]) == 10
    assert float(sums["correct"]) == np.sum(np.argmax(logits, -1) == labels)
    expected = cross_entropy(logits, labels).sum()
    assert float(sums["loss"]) == pytest.approx(expected, rel=1e-5)


def test_a_model_without_statistics_trains(batch):
    class Linear:
        def init(self, key, x, train):
            return {"params": {"w": jnp.zeros((64, 10))}}

        def apply(self, variables, x, *, train, rngs=None, mutable=()):
            logits = x.reshape(x.shape[0], -1) @ variables["params"]["w"]
            return (logits, {}) if mutable else logits

    state = TrainState.create(
        Linear(), optax.sgd(0.1), jax.random.key(0), batch["image"]
    )
    new_state, metrics = train_step(state, batch, jax.random.key(0))
    assert new_state.batch_stats == {}
    assert float(metrics["loss"]) == pytest.approx(np.log(10), rel=1e-5)
    assert float(jnp.abs(new_state.params["w"]).max()) > 0


def test_the_steps_bring_nothing_but_jax_flax_optax_and_numpy():
    script = """
        import sys
        import flax.linen, flax.struct, jax, numpy, optax
        before = {name.partition(".")[0] for name in sys.modules}
        import cnn_jax.training
        after = {name.partition(".")[0] for name in sys.modules}
        print(sorted(after - before - set(sys.stdlib_module_names)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.stdout.strip() == "['cnn_jax']"


def test_a_step_that_is_skipped_changes_nothing_but_its_number(state, batch):
    step = jax.jit(
        functools.partial(train_step, options=StepOptions(skip_non_finite=True))
    )
    key = jax.random.key(3)
    expected, _ = jax.jit(train_step)(state, batch, key)
    found, metrics = step(state, batch, key)
    chex.assert_trees_all_equal(found.params, expected.params)
    chex.assert_trees_all_equal(found.batch_stats, expected.batch_stats)
    assert float(metrics["skipped"]) == 0.0
    assert int(metrics["bad_leaf"]) == -1

    broken = {**batch, "image": batch["image"].at[3, 2, 2].set(jnp.nan)}
    skipped, metrics = step(state, broken, key)
    assert int(skipped.step) == 1
    chex.assert_trees_all_equal(skipped.replace(step=state.step), state)
    assert float(metrics["skipped"]) == 1.0
    assert int(metrics["bad_leaf"]) == 0
    taken, metrics = jax.jit(train_step)(state, broken, key)
    assert not np.all(np.isfinite(taken.params["head"]["bias"]))
    assert float(metrics["skipped"]) == 0.0
    assert int(metrics["bad_leaf"]) == 0
