"""Modules, data, losses and optimizers of the caller's own."""

import dataclasses
import functools
import json
import os
import signal
import sys

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers.kills import KilledError, kill_at
from helpers.quick import nightly_except, slow_except

import cnn_jax
from cnn_jax import data
from cnn_jax.checkpoint import ResumeRefusedError
from cnn_jax.training import TrainConfig
from cnn_jax.training.run import stopping

CLASSES = 3
SIZE = 96
BATCH = 16


class Handwritten(nn.Module):
    """A module that knows nothing of this package."""

    features: int = 8
    num_logits: int = CLASSES

    @nn.compact
    def __call__(self, x, *, train):
        """Returns the logits."""
        x = nn.Conv(self.features, (3, 3))(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
        x = nn.Dropout(0.1, deterministic=not train)(nn.relu(x).mean(axis=(1, 2)))
        return nn.Dense(self.num_logits)(x)


class Objects(nnx.Module):
    """A module of Flax's other API."""

    def __init__(self, features, *, rngs):
        self.conv = nnx.Conv(1, features, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(features, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(features, CLASSES, rngs=rngs)

    def __call__(self, x, *, train):
        """Returns the logits."""
        x = self.norm(self.conv(x), use_running_average=not train)
        x = self.dropout(jax.nn.relu(x).mean(axis=(1, 2)), deterministic=not train)
        return self.head(x)


def focal_loss(logits, labels, gamma=2.0):
    """Lin et al. 2017, "Focal Loss for Dense Object Detection"."""
    log_likelihood = jnp.take_along_axis(
        jax.nn.log_softmax(logits), labels[:, None], axis=1
    )[:, 0]
    return -((1 - jnp.exp(log_likelihood)) ** gamma) * log_likelihood


def squared_error(logits, labels):
    targets = jax.nn.one_hot(labels, logits.shape[-1])
    return jnp.sum((jax.nn.softmax(logits) - targets) ** 2, axis=-1)


def make_arrays(seed=0, size=SIZE, dtype=np.float32):
    """Images whose brightness tells their class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, size)
    images = random.normal(size=(size, 8, 8, 1)) + 2 * labels[:, None, None, None]
    if dtype == np.uint8:
        images = np.clip(40 * images + 60, 0, 255)
    return images.astype(dtype), labels


class Rereadable:
    """An iterable without a length."""

    def __init__(self, batches):
        self._batches = batches

    def __iter__(self):
        return iter(self._batches)


def batches_of(arrays, size=BATCH):
    images, labels = arrays
    return [
        (images[start : start + size], labels[start : start + size])
        for start in range(0, len(labels), size)
    ]


def grain_map(arrays):
    import grain

    images, labels = arrays
    rows = [
        {"image": image, "label": label}
        for image, label in zip(images, labels, strict=True)
    ]
    return grain.MapDataset.source(rows).shuffle(seed=3).batch(BATCH)


KINDS = {
    "floating-point arrays": make_arrays,
    "uint8 arrays": functools.partial(make_arrays, dtype=np.uint8),
    "batches": lambda: batches_of(make_arrays()),
    "an iterable without a length": lambda: Rereadable(batches_of(make_arrays())),
    "a Grain MapDataset": lambda: grain_map(make_arrays()),
    "a Grain IterDataset": lambda: grain_map(make_arrays()).to_iter_dataset(),
}


@pytest.fixture
def config():
    return TrainConfig(epochs=3, batch_size=BATCH, log_every_steps=2)


def train(model=None, split=None, **options):
    """Runs with a focal loss and Lion."""
    options = {
        "test": make_arrays(1, 40),
        "optimizer": optax.lion(1e-2),
        "loss_fn": focal_loss,
        "progress": False,
        "mesh": cnn_jax.sharding.make_mesh(jax.devices()[:1]),
        **options,
    }
    split = make_arrays() if split is None else split
    return cnn_jax.fit(Handwritten() if model is None else model, split, **options)


def resumed_to_the_same_bits(tmp_path, config, **options):
    """Returns whether a run that was killed ends as one that was left alone."""
    expected = train(config=config, **options)
    config = dataclasses.replace(
        config, run_dir=str(tmp_path / "run"), checkpoint_every_steps=4
    )
    with pytest.raises(KilledError):
        train(config=config, callbacks=[kill_at(10)], **options)
    found = train(config=dataclasses.replace(config, resume=True), **options)
    assert found.test == expected.test
    return found.state_digest == expected.state_digest


@pytest.mark.parametrize(
    "kind", slow_except({"floating-point arrays", "a Grain MapDataset"}, KINDS)
)
def test_every_kind_of_data_learns(kind, config):
    test = make_arrays(1, 40, np.uint8 if kind == "uint8 arrays" else np.float32)
    result = train(split=KINDS[kind](), config=config, test=test)
    assert int(result.state.step) == 3 * SIZE // BATCH
    assert result.test["num_examples"] == 40
    assert result.test["accuracy"] > 0.6
    assert "learning_rate" not in result.history[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", nightly_except(["batches"], KINDS))
def test_a_killed_run_goes_on_to_the_same_bits(kind, config, tmp_path):
    test = make_arrays(1, 40, np.uint8 if kind == "uint8 arrays" else np.float32)
    split = KINDS[kind]()
    assert resumed_to_the_same_bits(tmp_path, config, split=split, test=test)


@pytest.mark.slow
def test_a_module_of_nnx_learns_and_resumes(config, tmp_path):
    model = nnx.bridge.to_linen(Objects, 8)
    assert resumed_to_the_same_bits(tmp_path, config, model=model)
    assert train(model, config=config).test["accuracy"] > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["floating-point arrays", "a Grain MapDataset"])
def test_two_devices_give_the_numbers_of_one(kind, config):
    model = nn.Sequential([Flatten(), nn.Dense(8), nn.relu, nn.Dense(CLASSES)])
    model = Untrained(model)
    # Lion takes the sign of a sum, which rounding may turn.
    options = {"split": KINDS[kind](), "optimizer": optax.sgd(0.01, 0.9)}
    config = dataclasses.replace(config, epochs=2)
    expected = train(model, config=config, **options)
    mesh = cnn_jax.sharding.make_mesh(jax.devices()[:2], "data=2")
    found = train(model, config=config, mesh=mesh, **options)
    chex.assert_trees_all_close(
        found.state.params, jax.device_get(expected.state.params), rtol=1e-4, atol=1e-6
    )
    assert found.test["loss"] == pytest.approx(expected.test["loss"], rel=1e-4)


class Flatten(nn.Module):
    def __call__(self, x):
        """Returns the images as rows."""
        return x.reshape(len(x), -1)


class Untrained(nn.Module):
    """A module without normalisation and dropout, which `train` does not concern."""

    inner: nn.Module

    def __call__(self, x, *, train):
        """Returns the logits."""
        return self.inner(x)


def test_the_loss_reported_is_the_callers(config):
    metrics = {"brier": squared_error}
    result = train(config=config, metrics=metrics)
    arrays = make_arrays(1, 40)
    logits = Handwritten().apply(result.best_variables, arrays[0], train=False)
    assert result.test["loss"] == pytest.approx(
        float(focal_loss(logits, arrays[1]).mean()), rel=1e-4
    )
    assert result.test["brier"] == pytest.approx(
        float(squared_error(logits, arrays[1]).mean()), rel=1e-4
    )
    assert result.history[-1]["test_brier"] == pytest.approx(result.test["brier"])


def test_a_step_is_that_of_the_callers_loss_and_optimizer(config):
    model = Untrained(nn.Sequential([Flatten(), nn.Dense(CLASSES)]))
    images, labels = make_arrays(size=BATCH)
    config = dataclasses.replace(config, epochs=1)
    optimizer = optax.adamw(1e-2)
    key = jax.random.key(5)
    variables = model.init(key, images[:1], train=False)
    result = train(
        model,
        (images, labels),
        config=config,
        optimizer=optimizer,
        initial_variables=variables,
    )

    def loss_fn(params):
        logits = model.apply({"params": params}, images, train=True)
        return focal_loss(logits, labels).mean()

    gradients = jax.grad(loss_fn)(variables["params"])
    updates, _ = optimizer.update(
        gradients, optimizer.init(variables["params"]), variables["params"]
    )
    expected = optax.apply_updates(variables["params"], updates)
    chex.assert_trees_all_close(result.state.params, expected, rtol=1e-4, atol=1e-6)


def test_without_a_test_split_there_is_no_score(config, tmp_path):
    config = dataclasses.replace(config, epochs=1, run_dir=str(tmp_path / "run"))
    result = train(config=config, test=None)
    assert result.test is None
    assert "test_accuracy" not in result.history[0]
    config = dataclasses.replace(config, validation_fraction=0.25, run_dir=None)
    assert train(config=config, test=None).history[0]["validation_accuracy"] >= 0


def test_the_parts_are_named_and_compared(config, tmp_path):
    config = dataclasses.replace(config, epochs=1, run_dir=str(tmp_path / "run"))
    loss_fn = functools.partial(focal_loss, gamma=1.0)
    options = {"metrics": {"brier": squared_error}, "loss_fn": loss_fn}
    train(config=config, **options)
    description = json.loads((tmp_path / "run" / "config.json").read_text())
    parts = description["own_parts"]
    assert parts["loss_fn"].endswith("test_own_parts.focal_loss(gamma=1.0)")
    assert parts["metrics"]["brier"].endswith("test_own_parts.squared_error")
    assert "ScaleByLionState" in parts["optimizer"]
    assert description["config"]["learning_rate"] is None
    again = dataclasses.replace(config, resume=True, epochs=1)
    others = {
        "loss_fn": {**options, "loss_fn": focal_loss},
        "optimizer": {**options, "optimizer": optax.sgd(0.1)},
        "metrics": {"loss_fn": loss_fn},
    }
    for name, changed in others.items():
        with pytest.raises(ResumeRefusedError, match=name):
            train(config=again, **changed)
    allowed = dataclasses.replace(again, allow_changed=("loss_fn",))
    train(config=allowed, **others["loss_fn"])


MISTAKES = {
    "the mean": (
        {"loss_fn": lambda logits, labels: focal_loss(logits, labels).mean()},
        r"loss_fn: got float32\[\] for logits .*one number per example, \[2\]; leave",
    ),
    "a loss per class": (
        {"loss_fn": lambda logits, labels: logits},
        r"loss_fn: got float32\[2, 3\] for logits",
    ),
    "no array": (
        {"loss_fn": lambda logits, labels: 1.0},
        "loss_fn: got a float for logits",
    ),
    "no function": ({"loss_fn": 3}, "loss_fn: got a int, expected a function"),
    "one argument": (
        {"loss_fn": lambda logits: logits[:, 0]},
        "loss_fn: got TypeError for logits",
    ),
    "a metric's mean": (
        {"metrics": {"brier": lambda logits, labels: jnp.float32(0)}},
        r"metrics\['brier'\]: got float32\[\] for logits",
    ),
    "a metric that is there": (
        {"metrics": {"accuracy": squared_error}},
        "metrics: got accuracy, which are reported anyway",
    ),
    "no optimizer": ({"optimizer": "adam"}, "optimizer: got 'adam', expected an optax"),
    "an optimizer that needs more": (
        {"optimizer": optax.contrib.reduce_on_plateau()},
        "optimizer: got .*Error from its update of gradients, state and parameters",
    ),
    "labels out of range": (
        {"split": (make_arrays()[0], make_arrays()[1] + 1)},
        "got labels from 1 to 3, expected 0 to 2 for 3 classes",
    ),
    "labels of batches out of range": (
        {"split": [(make_arrays()[0], make_arrays()[1] + 1)]},
        "train: batch 0 of builtins.list: got the label 3, expected 0 to 2",
    ),
    "a generator": (
        {"split": (batch for batch in batches_of(make_arrays()))},
        "train: .*generator: got an iterator, which can be read only once",
    ),
    "examples": (
        {"split": [(image, 0) for image in make_arrays()[0]]},
        r"train: batch 0: got images float32\[8, 8, 1\], .*\.batch\(size\) makes",
    ),
    "uneven batches": (
        {"split": [*batches_of(make_arrays(size=20)), *batches_of(make_arrays())]},
        "got a batch of 4 before one of 16, expected 16 in all but the last",
    ),
    "images of another size": (
        {"test": (np.zeros((4, 6, 6, 1), np.float32), np.zeros(4, int))},
        r"test: got images \(6, 6, 1\) \(float32\) of 3 classes",
    ),
    "images of another dtype": (
        {"test": make_arrays(1, 8, np.uint8)},
        r"test: got images \(8, 8, 1\) \(uint8\).*\(8, 8, 1\) \(float32\) of 3",
    ),
    "other logits": (
        {"model": Handwritten(num_logits=2)},
        "got labels from 0 to 2, expected 0 to 1 for 2 classes",
    ),
}


class WithoutTrain(nn.Module):
    @nn.compact
    def __call__(self, x):
        """Returns the logits."""
        return nn.Dense(CLASSES)(x.reshape(len(x), -1))


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_sentence(case, config, tmp_path):
    changes, message = MISTAKES[case]
    config = dataclasses.replace(config, run_dir=str(tmp_path / "run"))
    with pytest.raises(ValueError, match=message):
        train(config=config, **changes)
    assert not (tmp_path / "run").exists()


def test_a_module_without_train_is_refused(config):
    with pytest.raises(ValueError, match="whose call takes no `train`"):
        train(WithoutTrain(), config=config)


@pytest.mark.parametrize(
    "changes",
    [{"learning_rate": 0.3}, {"schedule": "cosine"}, {"weight_decay": 0.0}],
    ids=lambda changes: next(iter(changes)),
)
def test_settings_of_another_optimizer_are_refused(changes, config):
    (name,) = changes
    with pytest.raises(ValueError, match=f"optimizer: got one of your own.*{name}="):
        train(config=dataclasses.replace(config, **changes))


def test_smoothing_is_the_loss_functions_own(config):
    config = dataclasses.replace(config, label_smoothing=0.1)
    with pytest.raises(ValueError, match=r"label_smoothing: got 0\.1 with a loss"):
        train(config=config)


def test_frozen_parameters_stay_under_an_optimizer_of_ones_own(config):
    config = dataclasses.replace(config, epochs=1, frozen_parameters=("^Conv_0/",))
    variables = Handwritten().init(
        jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False
    )
    result = train(config=config, initial_variables=variables)
    found, before = result.state.params, variables["params"]
    chex.assert_trees_all_equal(found["Conv_0"], before["Conv_0"])
    assert np.any(found["Dense_0"]["kernel"] != before["Dense_0"]["kernel"])


@pytest.fixture
def notebook(monkeypatch):
    """A session that a person types into, in which Python hears Ctrl-C."""
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("notebook")
def test_ctrl_c_in_a_notebook_leaves_a_result(config):
    assert stopping.is_interactive()

    def interrupt(line, state):
        if line["event"] == "step" and line["step"] == 8:
            os.kill(os.getpid(), signal.SIGINT)

    result = train(config=config, callbacks=[interrupt])
    assert result.interrupted
    assert int(result.state.step) == 8
    assert len(result.history) == 1
    assert result.test["num_examples"] == 40
    assert "interrupted" in repr(result)


def test_a_data_source_is_taken_as_it_is(config):
    images, labels = make_arrays(dtype=np.uint8)
    source = data.Dataset("mine", "train", images, labels, ("dark", "gray", "light"))
    result = train(split=source, config=config, test=(images[:9], labels[:9]))
    assert result.test["num_examples"] == 9
