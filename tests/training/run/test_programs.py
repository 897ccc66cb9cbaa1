"""The compiled programs: what a step sees, where it lies, and which runs share it."""

import dataclasses
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import sharding
from cnn_jax.data import Dataset
from cnn_jax.training import TrainConfig
from cnn_jax.training.run.loop import fit
from cnn_jax.training.run.programs import Programs

NUM_EXAMPLES = 44
BATCH_SIZE = 8
# One pixel per image, and its value is the example's number.
NUMBERS = Dataset(
    name="numbers",
    split="train",
    images=np.arange(NUM_EXAMPLES, dtype=np.uint8).reshape(-1, 1, 1, 1),
    labels=np.zeros(NUM_EXAMPLES, int),
    class_names=("none", "some"),
)
SPLITS = {"train": NUMBERS, "test": NUMBERS}
CONFIG = TrainConfig(
    epochs=2, batch_size=BATCH_SIZE, mean=(0.0,), std=(1 / 255,), schedule="constant"
)

DIGITS_CONFIG = TrainConfig(image_size=8, epochs=1, batch_size=32, crop_padding=1)
"""For programs that serve several seeds."""


def make_witness(seen_shardings):
    """A model that counts the examples it sees and keeps what it last drew."""

    def init(key, images, train):
        statistics = {"seen": jnp.zeros(NUM_EXAMPLES), "drawn": jnp.zeros(())}
        return {"params": {"kernel": jnp.zeros(2)}, "batch_stats": statistics}

    def apply(variables, images, *, train, rngs=None, mutable=()):
        logits = jnp.zeros((len(images), 1)) + variables["params"]["kernel"][None]
        if not train:
            return logits
        jax.debug.inspect_array_sharding(images, callback=seen_shardings.append)
        numbers = jnp.round(images.reshape(-1, 1)).astype(jnp.int32)
        found = jnp.sum(numbers == jnp.arange(NUM_EXAMPLES)[None], axis=0)
        statistics = {
            "seen": variables["batch_stats"]["seen"] + found,
            "drawn": jax.random.uniform(rngs["dropout"]),
        }
        return logits, {"batch_stats": statistics}

    return types.SimpleNamespace(init=init, apply=apply)


@pytest.fixture(scope="module")
def witnessed():
    """The programs of a witness on eight devices, and the shardings it saw."""
    shardings = []
    programs = Programs(make_witness(shardings), CONFIG, SPLITS, sharding.make_mesh())
    return programs, shardings


def test_an_epoch_trains_on_no_example_twice(witnessed):
    programs, _ = witnessed
    carry = programs.start()
    left_out = []
    for epoch in range(3):
        before = np.array(carry["state"].batch_stats["seen"])
        for index in range(programs.steps_per_epoch):
            inputs = programs.feed.inputs(epoch * programs.steps_per_epoch + index)
            carry = programs.step(carry, inputs)
        seen = np.asarray(carry["state"].batch_stats["seen"]) - before
        # Five batches of eight; the four examples left over differ between epochs.
        assert sorted(seen) == [0] * 4 + [1] * 40
        left_out.append(frozenset(np.flatnonzero(seen == 0)))
    assert len(set(left_out)) == 3


def test_every_step_draws_anew_and_every_seed_otherwise(witnessed):
    programs, _ = witnessed
    other = programs.reuse(programs._model, dataclasses.replace(CONFIG, seed=1), SPLITS)
    drawn = []
    for each in (programs, other):
        carry = each.start()
        for step in range(6):
            carry = each.step(carry, each.feed.inputs(step))
            drawn.append(float(carry["state"].batch_stats["drawn"]))
    assert len(set(drawn)) == 12


def test_other_examples_need_no_other_programs(witnessed):
    programs, _ = witnessed
    few = NUMBERS.take(np.resize([3, 5], NUM_EXAMPLES))
    other = programs.reuse(programs._model, CONFIG, {**SPLITS, "train": few})
    for each, places in ((other, [3, 5]), (programs, None)):
        carry = each.start()
        for step in range(each.steps_per_epoch):
            carry = each.step(carry, each.feed.inputs(step))
        seen = np.asarray(carry["state"].batch_stats["seen"])
        assert seen.sum() == each.steps_per_epoch * BATCH_SIZE
        if places:
            assert np.flatnonzero(seen).tolist() == places
        else:
            assert seen.max() == 1
    fewer = {**SPLITS, "train": NUMBERS.take(range(40))}
    with pytest.raises(ValueError, match="other values of the splits"):
        programs.reuse(programs._model, CONFIG, fewer)


def test_a_batch_is_split_over_the_devices(witnessed):
    _, shardings = witnessed
    shape = (BATCH_SIZE, 1, 1, 1)
    assert shardings
    assert all(each.shard_shape(shape) == (1, 1, 1, 1) for each in shardings)


def test_evaluation_counts_every_example_though_batches_do_not_divide(witnessed):
    programs, _ = witnessed
    found = programs.evaluate(programs.start()["state"], "test")
    assert found["num_examples"] == NUM_EXAMPLES
    assert found["accuracy"] == 1.0
    assert found["loss"] == pytest.approx(np.log(2), rel=1e-6)


@pytest.fixture(scope="module")
def splits(digits):
    """The splits that the programs are compiled for."""
    return dict(zip(("train", "test"), digits, strict=True))


@pytest.fixture(scope="module")
def programs(splits, tiny_net):
    """Programs for the seed of `DIGITS_CONFIG`."""
    return Programs(tiny_net(), DIGITS_CONFIG, splits, sharding.make_mesh())


def test_shared_programs_train_as_own_ones_would(programs, digits, tiny_net):
    config = dataclasses.replace(DIGITS_CONFIG, seed=7)
    shared = fit(tiny_net(), config, *digits, programs=programs, progress=False)
    own = fit(tiny_net(), config, *digits, progress=False)
    chex.assert_trees_all_equal(shared.state.params, own.state.params)
    assert shared.test == own.test
    assert shared.compile_seconds == programs.compile_seconds
    first = fit(tiny_net(), DIGITS_CONFIG, *digits, programs=programs, progress=False)
    assert first.state_digest != shared.state_digest


def test_programs_refuse_all_but_another_seed(programs, splits, tiny_net):
    may_differ = dataclasses.replace(
        DIGITS_CONFIG, seed=3, run_dir="elsewhere", resume=True
    )
    programs.reuse(tiny_net(), may_differ, splits)
    other_config = dataclasses.replace(DIGITS_CONFIG, learning_rate=0.2, batch_size=16)
    with pytest.raises(ValueError, match="other values of batch_size, learning_rate"):
        programs.reuse(tiny_net(), other_config, splits)
    with pytest.raises(ValueError, match="other values of the model"):
        programs.reuse(tiny_net(dropout_rate=0.5), DIGITS_CONFIG, splits)
    # What normalises would be those of the examples that the programs were made for.
    order = np.arange(len(splits["train"]))[::-1]
    with pytest.raises(ValueError, match="other values of the splits"):
        programs.reuse(
            tiny_net(), DIGITS_CONFIG, {**splits, "train": splits["train"].take(order)}
        )
    test_again = {**splits, "test": splits["test"].take(range(10))}
    with pytest.raises(ValueError, match="other values of the splits"):
        programs.reuse(tiny_net(), DIGITS_CONFIG, test_again)
