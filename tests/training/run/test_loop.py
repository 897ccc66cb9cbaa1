"""The loop: what it reports, when it stops, and that resuming changes nothing."""

import dataclasses
import functools
import json
import pathlib
import types

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.kills import KilledError, kill_at
from helpers.quick import nightly_except
from helpers.run_files import read_metrics, without_clock

from cnn_jax import sharding, trees
from cnn_jax.checkpoint import Checkpointer, ResumeRefusedError
from cnn_jax.data import Dataset
from cnn_jax.training import TrainConfig
from cnn_jax.training.run.directory.files import CLOCKED
from cnn_jax.training.run.fit import fit
from cnn_jax.training.run.result import NonFiniteLossError


@pytest.fixture(scope="module")
def one_device():
    return sharding.make_mesh(jax.devices()[:1])


def test_a_run_learns_and_reports_itself(tiny_net, digits, with_run):
    train, test = digits
    config = with_run(epochs=4)
    records = []
    result = fit(
        tiny_net(),
        train,
        test=test,
        config=config,
        progress=False,
        callbacks=[lambda record, state: records.append((record, int(state.step)))],
    )
    assert result.test["accuracy"] > 0.6
    assert result.test["num_examples"] == len(test) == 355
    assert [record["epoch"] for record in result.history] == [1, 2, 3, 4]
    assert [record["step"] for record in result.history] == [11, 22, 33, 44]
    last = result.history[-1]
    assert last["test_accuracy"] == result.test["accuracy"]
    assert last["train_loss"] < result.history[0]["train_loss"]
    assert set(last) == {
        "epoch",
        "step",
        "train_loss",
        "train_accuracy",
        "test_loss",
        "test_accuracy",
        "test_top5_accuracy",
        "test_calibration_error",
        "learning_rate",
        *CLOCKED,
    }
    assert result.best_epoch == 4
    assert not result.stopped_early
    accuracy = result.test["accuracy"]
    assert f"accuracy {accuracy:.6g}" in repr(result)
    assert "epoch 4 of 4" in repr(result)
    assert len(repr(result)) < 400
    assert repr(result.state).startswith("TrainState(")
    assert len(repr(result.state)) < 100
    assert result.train_seconds == pytest.approx(
        sum(record["seconds"] for record in result.history)
    )
    assert result.images_per_second == pytest.approx(44 * 32 / result.train_seconds)
    assert 0 < result.step_seconds_median < result.train_seconds
    assert result.compile_seconds > 0
    assert result.peak_memory_bytes > train.images.nbytes
    assert int(result.state.step) == 44
    assert result.state_digest == trees.digest(result.state)

    run_dir = pathlib.Path(config.run_dir)
    assert json.loads((run_dir / "config.json").read_text())["config"]["epochs"] == 4
    assert json.loads((run_dir / "result.json").read_text())["test"] == result.test
    assert list(run_dir.glob("events.out.tfevents.*"))
    lines = read_metrics(run_dir)
    assert [line["step"] for line in lines if line["event"] == "step"] == [
        *(4, 8, 11, 12, 16, 20, 22, 24, 28, 32, 33, 36, 40, 44)
    ]
    assert [record["event"] for record, _ in records] == [
        line["event"] for line in lines
    ]
    assert all(record["step"] == step for record, step in records)
    # What the lines of an epoch tell agrees with what the epoch tells.
    first = [line for line in lines if line["epoch"] == 1]
    losses = [line["loss"] for line in first if line["event"] == "step"]
    assert np.average(losses, weights=[4, 4, 3]) == pytest.approx(
        first[-1]["train_loss"], rel=1e-5
    )


@pytest.mark.slow
def test_one_device_and_eight_agree(tiny_net, digits, config, one_device):
    # Without dropout, whose mask linen would have to draw alike on both.
    model, (train, test) = tiny_net(dropout_rate=0.0), digits
    config = dataclasses.replace(config, epochs=1)
    results = [
        fit(model, train, test=test, config=config, progress=False, mesh=mesh)
        for mesh in (one_device, sharding.make_mesh())
    ]
    first, second = (result.best_variables for result in results)
    for collection in ("params", "batch_stats"):
        difference = jax.tree.map(np.subtract, first[collection], second[collection])
        norms = [
            np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(tree)))
            for tree in (difference, first[collection])
        ]
        assert norms[0] < 1e-4 * norms[1]
    assert results[0].history[0]["train_loss"] == pytest.approx(
        results[1].history[0]["train_loss"], rel=1e-5
    )


def test_nothing_is_traced_again_after_the_first_step(tiny_net, digits, config):
    net = tiny_net()

    # Each is traced for its shapes, then compiled, for all epochs and evaluated splits.
    @functools.partial(chex.assert_max_traces, n=2)
    def apply_in_training(variables, images, rngs):
        return net.apply(
            variables, images, train=True, rngs=rngs, mutable=["batch_stats"]
        )

    @functools.partial(chex.assert_max_traces, n=2)
    def apply_in_evaluation(variables, images):
        return net.apply(variables, images, train=False)

    def apply(variables, images, *, train, rngs=None, mutable=()):
        if train:
            return apply_in_training(variables, images, rngs)
        return apply_in_evaluation(variables, images)

    model = types.SimpleNamespace(init=net.init, apply=apply)
    train, test = digits
    train, validation = train.split_off(0.2)
    fit(model, train, test=test, config=config, validation=validation, progress=False)


def test_steps_transfer_nothing_to_the_device(tiny_net, digits, with_run):
    def forbid(record, state):
        jax.config.update("jax_transfer_guard_host_to_device", "disallow")

    try:
        fit(
            tiny_net(),
            digits[0],
            test=digits[1],
            config=with_run(epochs=2),
            progress=False,
            callbacks=[forbid],
        )
    finally:
        jax.config.update("jax_transfer_guard_host_to_device", "allow")


def test_the_device_is_asked_only_when_something_is_reported(
    tiny_net, digits, config, monkeypatch
):
    fetches = []
    device_get = jax.device_get
    monkeypatch.setattr(
        jax, "device_get", lambda tree: fetches.append(0) or device_get(tree)
    )
    config = dataclasses.replace(config, epochs=2, log_every_steps=100)
    fit(tiny_net(), digits[0], test=digits[1], config=config, progress=False)
    # Per epoch: the log line at its end, its sums, its evaluation; then the final
    # variables and their evaluation.
    assert len(fetches) == 2 * 3 + 2


@pytest.fixture(scope="module")
def left_alone(tiny_net, digits, tmp_path_factory):
    """A run that validates and saves inside epochs of ten steps, and its result."""
    config = TrainConfig(
        model="tiny",
        image_size=8,
        epochs=3,
        batch_size=32,
        learning_rate=0.2,
        crop_padding=1,
        validation_fraction=0.1,
        log_every_steps=3,
        checkpoint_every_steps=4,
        run_dir=str(tmp_path_factory.mktemp("alone") / "run"),
    )
    return config, fit(
        tiny_net(), digits[0], test=digits[1], config=config, progress=False
    )


# Before the first checkpoint, inside an epoch, at its end, and at the run's.
@pytest.mark.parametrize(
    "killed_at",
    nightly_except([14], [1, 14, 20, 30]),
)
def test_a_resumed_run_equals_one_that_was_left_alone(
    tiny_net, digits, left_alone, tmp_path, killed_at
):
    alone, expected = left_alone
    broken = dataclasses.replace(alone, run_dir=str(tmp_path / "run"))
    with pytest.raises(KilledError):
        fit(
            tiny_net(),
            digits[0],
            test=digits[1],
            config=broken,
            progress=False,
            callbacks=[kill_at(killed_at)],
        )
    resumed = dataclasses.replace(broken, resume=True)
    result = fit(tiny_net(), digits[0], test=digits[1], config=resumed, progress=False)

    assert result.state_digest == expected.state_digest
    assert trees.digest(result.best_variables) == trees.digest(expected.best_variables)
    assert result.test == expected.test
    assert result.best_epoch == expected.best_epoch
    assert without_clock(result.history) == without_clock(expected.history)
    assert read_metrics(broken.run_dir) == read_metrics(alone.run_dir)


@pytest.mark.slow
def test_a_run_with_everything_on_resumes_bitwise_and_keeps_its_averages(
    tiny_net, digits, with_run, tmp_path
):
    alone = with_run(
        epochs=2,
        dtype="float16",
        loss_scale_growth_steps=3,
        optimizer="muon",
        learning_rate=0.01,
        accumulate_steps=2,
        sam_radius=0.05,
        ema_decay=0.9,
        maximum_gradient_norm=1.0,
        frozen_parameters=("^conv/bias",),
        learning_rate_groups=(("^head/", 2.0),),
        l2_sp=0.01,
        batch_norm="adapt",
        unfreeze_epochs=(("^conv/kernel", 1.5),),
        checkpoint_every_steps=4,
    )
    expected = fit(tiny_net(), digits[0], test=digits[1], config=alone, progress=False)
    broken = dataclasses.replace(alone, run_dir=str(tmp_path / "broken"))
    with pytest.raises(KilledError):
        fit(
            tiny_net(),
            digits[0],
            test=digits[1],
            config=broken,
            progress=False,
            callbacks=[kill_at(14)],
        )
    resumed = dataclasses.replace(broken, resume=True)
    result = fit(tiny_net(), digits[0], test=digits[1], config=resumed, progress=False)
    assert result.state_digest == expected.state_digest
    assert result.test == expected.test
    assert trees.digest(result.best_variables) == trees.digest(result.state.average)
    assert trees.digest(result.best_variables) != trees.digest(result.state.variables)
    # What is tested is the averages, with top-5 and calibration.
    assert result.test["loss"] == result.history[-1]["test_loss"]
    assert 0 < result.test["calibration_error"] < 1
    assert result.test["accuracy"] < result.test["top5_accuracy"] <= 1
    assert float(result.state.loss_scale.value) > alone.initial_loss_scale


class NarrowNet(nn.Module):
    """A network whose parameters are bfloat16."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = x.reshape(x.shape[0], -1)
        return nn.Dense(10, param_dtype=jnp.bfloat16, name="head")(x)


@pytest.mark.slow
def test_a_run_with_narrow_averages_resumes_with_wide_ones(
    digits, with_run, tmp_path, monkeypatch
):
    config = with_run(
        epochs=2, ema_decay=0.9, validation_fraction=0.2, keep_checkpoints=9
    )
    with monkeypatch.context() as older:
        # As runs were saved before averages and moments were float32.
        older.setattr(trees, "wide", lambda tree: tree)
        one = dataclasses.replace(config, epochs=2)
        with pytest.raises(KilledError):
            fit(
                NarrowNet(),
                digits[0],
                test=digits[1],
                config=one,
                progress=False,
                callbacks=[kill_at(12)],
            )
    checkpoints = pathlib.Path(config.run_dir) / "checkpoints"
    with Checkpointer(checkpoints, read_only=True) as checkpointer:
        leaves = checkpointer.describe().leaves
        assert leaves["state/average/params/head/kernel"] == "bfloat16[64,10]"
    resumed = dataclasses.replace(config, resume=True)
    result = fit(NarrowNet(), digits[0], test=digits[1], config=resumed, progress=False)
    narrow = {leaf.dtype for leaf in jax.tree.leaves(result.state.params)}
    assert narrow == {jnp.dtype(jnp.bfloat16)}
    kept = (result.state.average, result.state.opt_state)
    assert not any(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(kept))
    best = {leaf.dtype for leaf in jax.tree.leaves(result.best_variables)}
    assert best == narrow
    assert result.test["accuracy"] > 0.3
    assert trees.digest(result.best_variables) == trees.digest(
        result.state.evaluated_variables
    ) or result.best_epoch < len(result.history)


@pytest.mark.slow
def test_a_finished_run_resumes_to_the_same_result(tiny_net, digits, with_run):
    config = with_run(epochs=1)
    first = fit(tiny_net(), digits[0], test=digits[1], config=config, progress=False)
    again = fit(
        tiny_net(),
        digits[0],
        test=digits[1],
        config=dataclasses.replace(config, resume=True),
        progress=False,
    )
    assert again.state_digest == first.state_digest
    assert again.test == first.test
    assert again.history == first.history
    assert again.step_seconds_median == first.step_seconds_median


def test_resuming_nothing_starts_from_scratch_and_says_so(
    tiny_net, digits, with_run, capsys
):
    config = with_run(epochs=1, resume=True)
    result = fit(tiny_net(), digits[0], test=digits[1], config=config, progress=False)
    assert "starting from scratch" in capsys.readouterr().err
    assert int(result.state.step) == 11


def test_a_checkpoint_that_falls_on_an_epochs_end_is_saved(tiny_net, digits, with_run):
    config = with_run(epochs=2, checkpoint_every_steps=11, keep_checkpoints=9)
    fit(tiny_net(), digits[0], test=digits[1], config=config, progress=False)
    with Checkpointer(pathlib.Path(config.run_dir) / "checkpoints") as checkpointer:
        assert checkpointer.steps == (11, 22)


def test_checkpoints_may_lie_elsewhere_but_not_among_those_of_another_run(
    tiny_net, digits, with_run, tmp_path
):
    elsewhere = str(tmp_path / "elsewhere")
    fields = {"checkpoint_dir": elsewhere, "keep_checkpoints": 1, "epochs": 2}
    config = with_run(checkpoint_every_steps=4, keep_checkpoint_every_steps=8, **fields)
    fit(tiny_net(), digits[0], test=digits[1], config=config, progress=False)
    assert not (pathlib.Path(config.run_dir) / "checkpoints").exists()
    with Checkpointer(elsewhere, read_only=True) as checkpointer:
        assert checkpointer.steps == (8, 16, 22)
    again = dataclasses.replace(config, run_dir=str(tmp_path / "again"))
    with pytest.raises(FileExistsError, match=r"elsewhere already holds.*--checkpoint"):
        fit(tiny_net(), digits[0], test=digits[1], config=again, progress=False)
    resumed = dataclasses.replace(config, resume=True)
    assert (
        int(
            fit(
                tiny_net(), digits[0], test=digits[1], config=resumed, progress=False
            ).state.step
        )
        == 22
    )


def test_a_rule_says_how_a_leaf_is_split(tiny_net, digits, config):
    rules = (("head/kernel$", "fsdp,none"), ("kernel$", "none"))
    config = dataclasses.replace(
        config, mesh="data=4,fsdp=2", sharding_rules=rules, epochs=1
    )
    params = fit(
        tiny_net(), digits[0], test=digits[1], config=config, progress=False
    ).state.params
    specs = {
        path: leaf.sharding.spec for path, leaf in trees.named_leaves(params).items()
    }
    assert tuple(specs.pop("head/kernel")) == ("fsdp", None)
    assert all("fsdp" not in spec for spec in specs.values())


def test_what_would_change_the_numbers_is_refused(tiny_net, digits, with_run):
    train, test = digits
    config = with_run(epochs=1)
    fit(tiny_net(), train, test=test, config=config, progress=False)
    with pytest.raises(FileExistsError, match="already holds a run"):
        fit(tiny_net(), train, test=test, config=config, progress=False)
    changed = dataclasses.replace(config, resume=True, epochs=2, seed=1)
    with pytest.raises(ResumeRefusedError) as error:
        fit(tiny_net(), train, test=test, config=changed, progress=False)
    assert "  epochs: saved 1, now 2\n  seed: saved 0, now 1" in str(error.value)
    images = train.images.copy()
    images[0, 0, 0, 0] ^= 1
    other = dataclasses.replace(train, images=images)
    with pytest.raises(ResumeRefusedError, match="another dataset:\n  train: saved"):
        fit(
            tiny_net(),
            other,
            test=test,
            config=dataclasses.replace(config, resume=True),
            progress=False,
        )


def test_a_field_that_an_older_version_lacked_counts_as_its_default(
    tiny_net, digits, with_run
):
    config = with_run(epochs=1)
    fit(tiny_net(), digits[0], test=digits[1], config=config, progress=False)
    with Checkpointer(pathlib.Path(config.run_dir) / "checkpoints") as checkpointer:
        metadata = dict(checkpointer.metadata())
        saved = dict(metadata["config"])
        assert saved.pop("minimum_gain") == 0.0
        checkpointer.amend(checkpointer.latest_step, {**metadata, "config": saved})
    resumed = dataclasses.replace(config, resume=True)
    assert (
        int(
            fit(
                tiny_net(), digits[0], test=digits[1], config=resumed, progress=False
            ).state.step
        )
        == 11
    )
    other = dataclasses.replace(resumed, minimum_gain=0.1)
    with pytest.raises(ResumeRefusedError, match=r"minimum_gain: saved 0\.0, now 0\.1"):
        fit(tiny_net(), digits[0], test=digits[1], config=other, progress=False)


@pytest.mark.slow
def test_what_is_allowed_may_change(tiny_net, digits, with_run, capsys):
    train, test = digits
    config = with_run(epochs=1, schedule="constant")
    fit(tiny_net(), train, test=test, config=config, progress=False)
    images = train.images.copy()
    images[0, 0, 0, 0] ^= 1
    other = dataclasses.replace(train, images=images)
    changes = {"epochs": 2, "learning_rate": 0.1}
    allowed = ("epochs", "learning_rate", "dataset")
    for missing in allowed:
        resumed = dataclasses.replace(
            config,
            resume=True,
            allow_changed=tuple(name for name in allowed if name != missing),
            **changes,
        )
        hint = "--allow-changed dataset" if missing == "dataset" else missing
        with pytest.raises(ResumeRefusedError, match=hint):
            fit(tiny_net(), other, test=test, config=resumed, progress=False)
    resumed = dataclasses.replace(resumed, allow_changed=allowed)
    result = fit(tiny_net(), other, test=test, config=resumed, progress=False)
    assert int(result.state.step) == 22
    assert result.history[-1]["learning_rate"] == pytest.approx(0.1)
    # The run is now one with the new values.
    again = dataclasses.replace(resumed, allow_changed=())
    assert fit(
        tiny_net(), other, test=test, config=again, progress=False
    ).state_digest == (result.state_digest)
    with pytest.raises(ValueError, match=r"allow_changed: .*not \['epoch'\]"):
        dataclasses.replace(config, allow_changed=("epoch",)).validate()


def test_early_stopping_goes_by_validation_and_reports_the_best_epoch(
    tiny_net, digits, with_run
):
    train, test = digits
    # Labels without a pattern: accuracy moves up and down around chance.
    noise = dataclasses.replace(
        train, labels=np.random.default_rng(0).integers(0, 10, len(train))
    )
    config = with_run(
        epochs=30,
        patience=3,
        validation_fraction=0.3,
        schedule="constant",
        keep_checkpoints=1,
    )
    kept = {}
    result = fit(
        tiny_net(),
        noise,
        test=test,
        config=config,
        progress=False,
        callbacks=[
            lambda record, state: kept.update(
                {record["epoch"]: jax.device_get(state.variables)}
            )
        ],
    )
    accuracies = [record["validation_accuracy"] for record in result.history]
    assert result.stopped_early
    assert len(accuracies) < 30
    assert result.best_epoch == 1 + np.argmax(accuracies)
    assert len(accuracies) == result.best_epoch + 3
    assert trees.digest(result.best_variables) == trees.digest(kept[result.best_epoch])
    assert (
        result.test["accuracy"]
        == (result.history[result.best_epoch - 1]["test_accuracy"])
    )
    with Checkpointer(pathlib.Path(config.run_dir) / "checkpoints") as checkpointer:
        best = result.history[result.best_epoch - 1]["step"]
        assert checkpointer.best_step == best
        assert checkpointer.steps == (best, result.history[-1]["step"])
    # Stopping is part of the record: resuming trains no further.
    again = fit(
        tiny_net(),
        noise,
        test=test,
        config=dataclasses.replace(config, resume=True),
        progress=False,
    )
    assert again.state_digest == result.state_digest
    assert again.test == result.test


@pytest.mark.slow
def test_a_gain_below_the_minimum_does_not_buy_time(tiny_net, digits, config):
    train, test = digits
    config = dataclasses.replace(
        config, epochs=9, patience=2, minimum_gain=1.0, validation_fraction=0.3
    )
    result = fit(tiny_net(), train, test=test, config=config, progress=False)
    accuracies = [record["validation_accuracy"] for record in result.history]
    # The first epoch gains on nothing; no later one can gain a whole 100 %.
    assert len(accuracies) == 3
    assert result.stopped_early
    assert result.best_epoch == 1 + np.argmax(accuracies)


def test_patience_without_a_validation_split_is_refused(tiny_net, digits, config):
    config = dataclasses.replace(config, patience=2)
    with pytest.raises(ValueError, match="the test split decides nothing"):
        fit(tiny_net(), digits[0], test=digits[1], config=config, progress=False)


@pytest.mark.parametrize("checkpoint_every_steps", [0, 2])
def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(
    tiny_net, digits, with_run, checkpoint_every_steps
):
    net = tiny_net(dropout_rate=0.0)
    config = with_run(
        learning_rate=TrainConfig.learning_rate,
        log_every_steps=100,
        checkpoint_every_steps=checkpoint_every_steps,
    )
    fit_diverging = functools.partial(
        fit, net, digits[0], test=digits[1], optimizer=optax.sgd(1e30), progress=False
    )
    with pytest.raises(NonFiniteLossError) as error:
        fit_diverging(config=config)
    found = error.value.step
    # Watching every step finds the same one.
    losses = []
    watched = dataclasses.replace(
        config,
        log_every_steps=1,
        checkpoint_every_steps=0,
        run_dir=config.run_dir + "-watched",
    )
    with pytest.raises(NonFiniteLossError, match=f"at step {found} "):
        fit_diverging(
            config=watched,
            callbacks=[lambda record, state: losses.append(record["loss"])],
        )
    assert 1 < found < 11
    assert len(losses) == found - 1
    with Checkpointer(pathlib.Path(config.run_dir) / "checkpoints") as checkpointer:
        assert all(step < found for step in checkpointer.steps)


class Fragile(nn.Module):
    """A network whose loss or one of whose gradients breaks on images with a mark."""

    loss_too: bool

    @nn.compact
    def __call__(self, x, *, train=False):
        """Returns the logits."""
        is_marked = jnp.max(x[:, 0, 0, 0]) > 0.5
        x = x.reshape(x.shape[0], -1)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        weight = self.param("weight", nn.initializers.ones, ())
        # At zero the root's derivative is infinite, times zero: NaN.
        root = jnp.sqrt(jnp.where(is_marked, 0.0 * weight, 1.0))
        x = nn.Dense(10, name="head")(x) + (root - jax.lax.stop_gradient(root))
        return x * jnp.where(is_marked & self.loss_too, jnp.nan, 1.0)


@pytest.fixture
def marked(digits):
    """The digits, of which one has a white corner where all others are black."""
    train, test = digits
    images = train.images.copy()
    images[5, 0, 0, 0] = 255
    return dataclasses.replace(train, images=images), test


FRAGILE_RUN = {
    "crop_padding": 0,
    "mean": (0.0,),
    "std": (1.0,),
    "log_every_steps": 1,
    "checkpoint_every_steps": 1,
    "keep_checkpoints": 1,
}


@pytest.mark.parametrize("loss_too", [False, True])
def test_what_is_not_finite_first_is_named(marked, with_run, loss_too):
    config = with_run(epochs=1, **FRAGILE_RUN)
    steps = []
    with pytest.raises(NonFiniteLossError) as error:
        fit(
            Fragile(loss_too),
            marked[0],
            test=marked[1],
            config=config,
            progress=False,
            callbacks=[lambda record, state: steps.append(record["step"])],
        )
    assert error.value.step == steps[-1] + 1 > 1
    # The gradient of the weight alone, or of all, of which the head's are the first.
    expected = "head/bias" if loss_too else "weight"
    assert error.value.leaf == expected
    assert f"leaf that is not: {expected}" in str(error.value)
    with Checkpointer(pathlib.Path(config.run_dir) / "checkpoints") as checkpointer:
        assert checkpointer.steps == (steps[-1],)


@pytest.mark.parametrize("loss_too", nightly_except([False], [False, True]))
def test_so_many_steps_may_be_skipped_and_no_more(marked, with_run, loss_too):
    config = with_run(epochs=2, **FRAGILE_RUN)
    skip = dataclasses.replace(config, non_finite="skip", maximum_skipped_steps=2)
    result = fit(
        Fragile(loss_too), marked[0], test=marked[1], config=skip, progress=False
    )
    assert [epoch["train_skipped_steps"] for epoch in result.history] == [1, 1]
    assert all(np.isfinite(epoch["train_loss"]) for epoch in result.history)
    assert int(result.state.step) == 22
    chex.assert_tree_all_finite(result.state.params)
    skipped = [line for line in read_metrics(config.run_dir) if line["event"] == "step"]
    assert sorted(line["skipped_steps"] for line in skipped) == [0] * 20 + [1] * 2
    # A step that was skipped alone in its interval has no mean to show.
    assert [line["loss"] for line in skipped if line["skipped_steps"]] == [None] * 2
    once = dataclasses.replace(skip, maximum_skipped_steps=1, run_dir=None)
    with pytest.raises(NonFiniteLossError):
        fit(Fragile(loss_too), marked[0], test=marked[1], config=once, progress=False)


def test_parameters_that_are_not_finite_are_not_saved(tiny_net, digits, with_run):
    def update(gradients, state, params=None):
        infinite = {"head": {"bias": jnp.full_like(gradients["head"]["bias"], jnp.inf)}}
        still = jax.tree.map(jnp.zeros_like, gradients)
        return {**still, "head": {**still["head"], **infinite["head"]}}, state

    optimizer = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    config = with_run(learning_rate=TrainConfig.learning_rate, checkpoint_every_steps=1)
    with pytest.raises(NonFiniteLossError, match=r"step 1 .*params/head/bias") as error:
        fit(
            tiny_net(),
            digits[0],
            test=digits[1],
            config=config,
            optimizer=optimizer,
            progress=False,
        )
    assert error.value.leaf == "params/head/bias"
    with Checkpointer(pathlib.Path(config.run_dir) / "checkpoints") as checkpointer:
        assert checkpointer.steps == ()


def test_a_schedule_that_ends_decays_to_the_logged_rate(tiny_net, digits, config):
    config = dataclasses.replace(config, epochs=2, schedule="linear")
    result = fit(tiny_net(), digits[0], test=digits[1], config=config, progress=False)
    rates = [record["learning_rate"] for record in result.history]
    # Of the epoch's last step, which 10 and 21 of 22 came before.
    np.testing.assert_allclose(rates, [0.2 * 12 / 22, 0.2 * 1 / 22], rtol=1e-5)


def test_splits_and_mesh_must_fit(tiny_net, digits, config):
    train, test = digits
    with pytest.raises(ValueError, match="multiple of the 8 devices"):
        fit(
            tiny_net(),
            train,
            test=test,
            config=dataclasses.replace(config, batch_size=12),
        )
    with pytest.raises(ValueError, match="expected 1 to 360"):
        fit(
            tiny_net(),
            train,
            test=test,
            config=dataclasses.replace(config, batch_size=800),
        )
    gray = Dataset(
        "x", "test", np.zeros((4, 9, 8, 1), np.uint8), np.arange(4), test.class_names
    )
    with pytest.raises(ValueError, match=r"test: got images \(9, 8, 1\)"):
        fit(tiny_net(), train, test=gray, config=config)
    with pytest.raises(ValueError, match="validation: given"):
        fit(
            tiny_net(),
            train,
            test=test,
            config=dataclasses.replace(config, validation_fraction=0.1),
            validation=test,
        )
    with pytest.raises(ValueError, match="epochs: got 0"):
        fit(tiny_net(), train, test=test, config=dataclasses.replace(config, epochs=0))


def test_bfloat16_inputs_keep_float32_parameters(tiny_net, digits, config):
    config = dataclasses.replace(config, epochs=1, dtype="bfloat16")
    seen = []

    class Watching(tiny_net):
        def __call__(self, x, *, train=False):
            seen.append(x.dtype)
            return super().__call__(x, train=train)

    result = fit(Watching(), digits[0], test=digits[1], config=config, progress=False)
    assert {str(dtype) for dtype in seen} == {"bfloat16"}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(result.best_variables)} == {
        "float32"
    }
