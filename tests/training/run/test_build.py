"""The compiled programs: the batches of a step, their sharding, and shared programs."""

import dataclasses
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax import sharding
from cnn_jax.data import Dataset
from cnn_jax.training import TrainConfig
from cnn_jax.training.run.build import build_run, check_compiled_for, compile_run
from cnn_jax.training.run.fit import fit

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
    parts = build_run(make_witness(shardings), CONFIG, SPLITS, sharding.make_mesh())
    return parts, compile_run(parts), shardings


def start(parts, compiled):
    return compiled.start(parts.keys.parameters, parts.initial)


def train(parts, compiled, carry, steps):
    """Returns the carry after these steps."""
    for step in steps:
        carry = compiled.step(carry, parts.feed.inputs(step), parts.keys.steps)
    return carry


def rebuilt(parts, **changes):
    """Returns the parts of a run of the same model with other arguments."""
    arguments = {"config": parts.config, "splits": SPLITS, **changes}
    return build_run(parts.model, mesh=parts.mesh, **arguments)


def test_an_epoch_trains_on_no_example_twice(witnessed):
    parts, compiled, _ = witnessed
    carry = start(parts, compiled)
    left_out = []
    for epoch in range(3):
        before = np.array(carry["state"].batch_stats["seen"])
        first = epoch * parts.steps_per_epoch
        steps = range(first, first + parts.steps_per_epoch)
        carry = train(parts, compiled, carry, steps)
        seen = np.asarray(carry["state"].batch_stats["seen"]) - before
        # Five batches of eight; the four examples left over differ between epochs.
        assert sorted(seen) == [0] * 4 + [1] * 40
        left_out.append(frozenset(np.flatnonzero(seen == 0)))
    assert len(set(left_out)) == 3


def test_every_step_draws_anew_and_every_seed_otherwise(witnessed):
    parts, compiled, _ = witnessed
    other = rebuilt(parts, config=dataclasses.replace(CONFIG, seed=1))
    drawn = []
    for each in (parts, other):
        carry = start(each, compiled)
        for step in range(6):
            carry = train(each, compiled, carry, [step])
            drawn.append(float(carry["state"].batch_stats["drawn"]))
    assert len(set(drawn)) == 12


def test_other_examples_need_no_other_programs(witnessed):
    parts, compiled, _ = witnessed
    few = NUMBERS.take(np.resize([3, 5], NUM_EXAMPLES))
    other = rebuilt(parts, splits={**SPLITS, "train": few})
    check_compiled_for(compiled, other)
    for each, places in ((other, [3, 5]), (parts, None)):
        carry = start(each, compiled)
        carry = train(each, compiled, carry, range(each.steps_per_epoch))
        seen = np.asarray(carry["state"].batch_stats["seen"])
        assert seen.sum() == each.steps_per_epoch * BATCH_SIZE
        if places:
            assert np.flatnonzero(seen).tolist() == places
        else:
            assert seen.max() == 1
    fewer = {**SPLITS, "train": NUMBERS.take(range(40))}
    with pytest.raises(ValueError, match="other values of the training split's size"):
        check_compiled_for(compiled, rebuilt(parts, splits=fewer))


def test_a_batch_is_split_over_the_devices(witnessed):
    _, _, shardings = witnessed
    shape = (BATCH_SIZE, 1, 1, 1)
    assert shardings
    assert all(each.shard_shape(shape) == (1, 1, 1, 1) for each in shardings)


def test_evaluation_counts_every_example_though_batches_do_not_divide(witnessed):
    parts, compiled, _ = witnessed
    state = start(parts, compiled)["state"]
    found = compiled.evaluate(state, parts.evaluation["test"].batches())
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
    return compile_run(
        build_run(tiny_net(), DIGITS_CONFIG, splits, sharding.make_mesh())
    )


def test_shared_programs_train_as_own_ones_would(programs, digits, tiny_net):
    config = dataclasses.replace(DIGITS_CONFIG, seed=7)
    shared = fit(
        tiny_net(),
        digits[0],
        test=digits[1],
        config=config,
        compiled=programs,
        progress=False,
    )
    own = fit(tiny_net(), digits[0], test=digits[1], config=config, progress=False)
    chex.assert_trees_all_equal(shared.state.params, own.state.params)
    assert shared.test == own.test
    assert shared.compile_seconds == programs.compile_seconds
    first = fit(
        tiny_net(),
        digits[0],
        test=digits[1],
        config=DIGITS_CONFIG,
        compiled=programs,
        progress=False,
    )
    assert first.state_digest != shared.state_digest


def test_a_second_seed_compiles_nothing(programs, digits, tiny_net, caplog):
    train, test = digits
    options = {"test": test, "compiled": programs, "progress": False}
    fit(tiny_net(), train, config=DIGITS_CONFIG, **options)
    other = train.take(np.arange(len(train)))
    config = dataclasses.replace(DIGITS_CONFIG, seed=5)
    with jax.log_compiles():
        fit(tiny_net(), other, config=config, **options)
        found = [entry.message for entry in caplog.records]
        assert not [text for text in found if "Compiling" in text]
        jax.jit(lambda x: x + len(found))(1.0)
    assert any("Compiling" in entry.message for entry in caplog.records)


def test_programs_refuse_all_but_another_seed(programs, splits, tiny_net):
    def check(model=None, config=DIGITS_CONFIG, splits=splits, **options):
        model = tiny_net() if model is None else model
        parts = build_run(model, config, splits, sharding.make_mesh(), **options)
        check_compiled_for(programs, parts)

    check(
        config=dataclasses.replace(
            DIGITS_CONFIG, seed=3, run_dir="elsewhere", resume=True
        )
    )
    other_config = dataclasses.replace(DIGITS_CONFIG, learning_rate=0.2, batch_size=16)
    with pytest.raises(ValueError, match="other values of batch_size, learning_rate"):
        check(config=other_config)
    with pytest.raises(ValueError, match="other values of the model"):
        check(tiny_net(dropout_rate=0.5))
    # What normalises would be those of the examples that the programs were made for.
    darker = dataclasses.replace(
        splits["train"], images=splits["train"].images // np.uint8(2)
    )
    with pytest.raises(ValueError, match="other values of the images' shape and norm"):
        check(splits={**splits, "train": darker})
    many = splits["test"].take(np.resize(np.arange(300), 9))
    wider = dataclasses.replace(DIGITS_CONFIG, batch_size=32, label_smoothing=0.1)
    with pytest.raises(ValueError, match="label_smoothing"):
        check(config=wider, splits={**splits, "test": many})
    with pytest.raises(ValueError, match="other values of optimizer"):
        check(optimizer=optax.sgd(0.1))
    with pytest.raises(ValueError, match="other values of loss_fn"):
        check(loss_fn=optax.softmax_cross_entropy_with_integer_labels)
