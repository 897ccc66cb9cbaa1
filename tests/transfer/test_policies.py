"""Runs that start from given weights, the policies, and features from a file."""

import dataclasses
import functools
import io
import os

import chex
import jax
import numpy as np
import optax
import pytest
from helpers.kills import KilledError, kill_at
from helpers.staged import HEAD, IMAGES, NORMS, StagedNet, make_variables

from cnn_jax import sharding, trees
from cnn_jax.data import Dataset
from cnn_jax.data.device import normalize
from cnn_jax.training import TrainConfig, TrainState
from cnn_jax.training.optimizers.freezing import first_steps
from cnn_jax.training.run.build import build_run, check_compiled_for, compile_run
from cnn_jax.training.run.fit import fit
from cnn_jax.transfer import feature_cache
from cnn_jax.transfer.feature_cache import split_features
from cnn_jax.transfer.policies import (
    feature_extraction,
    fine_tune,
    fit_in_turn,
    head_then_all,
)
from cnn_jax.transfer.probe import with_head

CONFIG = TrainConfig(
    model="staged",
    epochs=2,
    batch_size=16,
    learning_rate=0.05,
    schedule="constant",
    log_every_steps=1,
)


@pytest.fixture(scope="module")
def splits():
    """Sixty-four and thirty random images, of classes that differ in brightness."""
    generator = np.random.default_rng(0)
    made = []
    for split, size in (("train", 64), ("test", 30)):
        labels = np.arange(size) % 10
        images = (
            generator.integers(0, 60, (size, 8, 8, 1))
            + 19 * labels[:, None, None, None]
        )
        names = tuple("abcdefghij")
        made.append(Dataset("noise", split, images.astype(np.uint8), labels, names))
    return made


@pytest.fixture(scope="module")
def one_device():
    return sharding.make_mesh(jax.devices()[:1])


def same_bits(first, second):
    return trees.digest(jax.device_get(first)) == trees.digest(jax.device_get(second))


def test_a_run_starts_from_what_it_is_given_time_and_again(splits, one_device):
    config = dataclasses.replace(CONFIG, ema_decay=0.9, l2_sp=0.1)
    named = dict(zip(("train", "test"), splits, strict=True))
    variables = make_variables()

    def build(variables):
        return build_run(
            StagedNet(), config, named, one_device, initial_variables=variables
        )

    parts = build(variables)
    compiled = compile_run(parts)
    for _ in range(2):
        carry = compiled.start(parts.keys.parameters, parts.initial)
        state = carry["state"]
        assert same_bits(state.variables, variables)
        assert same_bits(state.average, variables)
        compiled.step(carry, parts.feed.inputs(0), parts.keys.steps)
    other = make_variables(seed=7)
    again = build(other)
    check_compiled_for(compiled, again)
    carry = compiled.start(again.keys.parameters, again.initial)
    assert same_bits(carry["state"].variables, other)
    with pytest.raises(ValueError, match="initial_variables"):
        check_compiled_for(compiled, build(None))


def test_a_state_that_is_consumed_leaves_the_callers_variables_alone():
    variables = jax.device_put(make_variables())
    state = TrainState.create(
        StagedNet(), optax.sgd(0.1), None, None, variables=variables
    )
    jax.jit(lambda state: state, donate_argnums=0)(state)
    assert all(not leaf.is_deleted() for leaf in jax.tree.leaves(variables))


def test_variables_of_another_network_are_refused_as_a_whole(splits, one_device):
    variables = make_variables()
    params = variables["params"]
    params["extra"] = params.pop("first_norm")
    params["head"]["kernel"] = np.zeros((4, 5), np.float32)
    with pytest.raises(ValueError, match="initial_variables") as error:
        fit(
            StagedNet(),
            splits[0],
            test=splits[1],
            config=CONFIG,
            mesh=one_device,
            initial_variables=variables,
            progress=False,
        )
    lines = str(error.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == [
        "params/extra/bias",
        "params/extra/scale",
        "params/first_norm/bias",
        "params/first_norm/scale",
        "params/head/kernel",
    ]
    assert "got float32[4,5], expected float32[4,10]" in lines[-1]


@pytest.mark.slow
def test_a_resumed_run_remembers_where_it_started_and_what_waits(
    splits, one_device, tmp_path
):
    config = dataclasses.replace(
        CONFIG,
        batch_norm="adapt",
        l2_sp=0.1,
        layer_decay=0.5,
        unfreeze_epochs=(("^second/", 1.0),),
        checkpoint_every_steps=2,
    )
    options = {"mesh": one_device, "progress": False}
    whole = fit(
        StagedNet(),
        splits[0],
        test=splits[1],
        config=config,
        initial_variables=make_variables(),
        **options,
    )
    broken = dataclasses.replace(config, run_dir=str(tmp_path / "run"))
    with pytest.raises(KilledError):
        fit(
            StagedNet(),
            splits[0],
            test=splits[1],
            config=broken,
            initial_variables=make_variables(),
            callbacks=[kill_at(3)],
            **options,
        )
    # The start is in the checkpoint: what is given now plays no part.
    resumed = fit(
        StagedNet(),
        splits[0],
        test=splits[1],
        config=dataclasses.replace(broken, resume=True),
        initial_variables=make_variables(seed=9),
        **options,
    )
    assert resumed.state_digest == whole.state_digest
    chex.assert_trees_all_equal(resumed.state.params, whole.state.params)


@pytest.mark.slow
def test_the_head_learns_first_and_then_all(splits, one_device, tmp_path):
    config = dataclasses.replace(
        CONFIG, batch_norm="adapt", run_dir=str(tmp_path), l2_sp=0.1
    )
    configs = head_then_all(config, StagedNet(), IMAGES, head_epochs=1)
    assert [each.epochs for each in configs] == [1, 1]
    assert configs[1].learning_rate == pytest.approx(0.1 * CONFIG.learning_rate)
    assert configs[1].batch_norm == "adapt"
    assert configs[1].l2_sp == 0.1
    variables = make_variables()
    results = fit_in_turn(
        StagedNet(),
        configs,
        *splits,
        initial_variables=variables,
        mesh=one_device,
        progress=False,
    )
    first, second = (trees.named_leaves(each.state.params) for each in results)
    for path, leaf in trees.named_leaves(variables["params"]).items():
        assert same_bits(first[path], leaf) == (path not in HEAD)
        assert same_bits(second[path], first[path]) == (path in NORMS)
    assert same_bits(results[0].state.batch_stats, variables["batch_stats"])
    assert not same_bits(results[1].state.batch_stats, variables["batch_stats"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "head"]
    with pytest.raises(ValueError, match="head_epochs: got 2 of 2"):
        head_then_all(config, StagedNet(), IMAGES, head_epochs=2)


def test_stages_begin_to_move_from_the_head_backwards():
    (config,) = fine_tune(CONFIG, StagedNet(), IMAGES, epochs_per_stage=0.75)
    config.validate()
    pairs = [(pattern, 100 * epoch) for pattern, epoch in config.unfreeze_epochs]
    first = trees.named_leaves(first_steps(make_variables()["params"], pairs))
    assert first["head/kernel"] == first["head/bias"] == 0
    for name, step in (("first", 75), ("second", 150)):
        assert {first[f"{name}/kernel"], first[f"{name}_norm/bias"]} == {step}
    assert fine_tune(CONFIG, StagedNet(), IMAGES) == (CONFIG,)
    with pytest.raises(ValueError, match="2 stages in 2 epochs"):
        fine_tune(CONFIG, StagedNet(), IMAGES, epochs_per_stage=1.0)


def features(splits, cache_dir, variables=None, **changes):
    """Returns the features of both splits."""
    variables = make_variables() if variables is None else variables
    config = dataclasses.replace(CONFIG, mean=(0.4,), std=(0.3,), **changes)
    mesh = sharding.make_mesh(jax.devices()[:1])
    return [
        split_features(
            StagedNet(),
            variables,
            config,
            splits[0],
            split,
            cache_dir=cache_dir,
            mesh=mesh,
        )
        for split in splits
    ]


def from_files(found):
    return [each.was_cached for each in found]


def test_features_are_computed_once_for_the_same_network_and_images(
    splits, tmp_path, capsys
):
    first = features(splits, tmp_path)
    assert from_files(first) == [False, False]
    assert [each.features.shape for each in first] == [(64, 4), (30, 4)]
    assert len(list(tmp_path.iterdir())) == 2
    second = features(splits, tmp_path)
    assert from_files(second) == [True, True]
    chex.assert_trees_all_equal(
        [each[:2] for each in second], [each[:2] for each in first]
    )
    # The head is no part of what features follow from.
    other = make_variables()
    other["params"]["head"]["kernel"] *= 2
    assert from_files(features(splits, tmp_path, other)) == [True, True]
    other["batch_stats"]["first_norm"]["mean"] += 1
    assert from_files(features(splits, tmp_path, other)) == [False, False]
    train, test = splits
    half = (train.take(range(32)), test)
    assert from_files(features(half, tmp_path)) == [False, True]
    changed = dataclasses.replace(CONFIG, mean=(0.1,), std=(0.3,))
    found = split_features(
        StagedNet(), make_variables(), changed, train, test, cache_dir=tmp_path
    )
    assert not found.was_cached


def test_features_are_counted_as_they_come(splits, tmp_path):
    """By batches, and at once where they come from a file."""
    config, (train, _) = dataclasses.replace(CONFIG, batch_size=16), splits
    for expected in ([16, 16, 16, 16], [64]):
        counts = []
        split_features(
            StagedNet(),
            make_variables(),
            config,
            train,
            train,
            cache_dir=tmp_path,
            advance=counts.append,
        )
        assert counts == expected


def test_other_crops_have_features_of_their_own(splits, tmp_path):
    """And so has every filter, though features of small images hardly differ."""
    given = [{}, {"crop_fraction": 0.5}, {"crop_mode": "squash"}]
    given += [{"interpolation": "nearest"}, {"interpolation": "lanczos"}]
    variables = make_variables()
    for repeated in (False, True):
        for fields in given:
            found = split_features(
                StagedNet(),
                variables,
                dataclasses.replace(CONFIG, mean=(0.4,), std=(0.3,), **fields),
                *splits,
                cache_dir=tmp_path,
            )
            assert found.was_cached == repeated
    assert len(list(tmp_path.iterdir())) == len(given)


def test_a_damaged_file_of_features_is_made_again(splits, tmp_path, capsys):
    first = features(splits, tmp_path)
    for path, damage in zip(tmp_path.iterdir(), (flip_a_bit, cut_off), strict=True):
        path.write_bytes(damage(path.read_bytes()))
    again = features(splits, tmp_path)
    assert from_files(again) == [False, False]
    assert capsys.readouterr().err.count("is damaged and is made again") == 2
    chex.assert_trees_all_equal(again, first)
    assert from_files(features(splits, tmp_path)) == [True, True]


def flip_a_bit(content):
    content = bytearray(content)
    content[200] ^= 1
    return bytes(content)


def cut_off(content):
    return content[:300]


def probe(splits, cache_dir=None, variables=None, **options):
    return feature_extraction(
        StagedNet(),
        make_variables() if variables is None else variables,
        dataclasses.replace(CONFIG, weight_decay=0.01, mean=(0.4,), std=(0.3,)),
        *splits,
        cache_dir=cache_dir,
        mesh=sharding.make_mesh(jax.devices()[:1]),
        **options,
    )


def test_a_classifier_of_features_becomes_the_last_layer(splits):
    generator = np.random.default_rng(1)
    parameters = {
        "kernel": generator.normal(size=(4, 10)).astype(np.float32),
        "bias": generator.normal(size=10).astype(np.float32),
    }
    variables = with_head(StagedNet(), make_variables(), parameters, IMAGES)
    for split, found in zip(splits, features(splits, None), strict=True):
        expected = found.features @ parameters["kernel"] + parameters["bias"]
        np.testing.assert_allclose(logits_of(variables, split), expected, atol=1e-4)
        np.testing.assert_array_equal(found.labels, split.labels)
    narrow = {"kernel": np.zeros((3, 10), np.float32), "bias": np.zeros(10)}
    with pytest.raises(ValueError, match="expected one dense layer"):
        with_head(StagedNet(), make_variables(), narrow, IMAGES)


def logits_of(variables, split):
    """Returns what the whole network says of a split."""
    prepare = functools.partial(normalize, mean=(0.4,), std=(0.3,))
    apply = jax.jit(lambda images: StagedNet().apply(variables, prepare(images)))
    return apply(split.images)


def test_feature_extraction_shows_its_progress(splits, tmp_path, monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)

    def stop(*arguments, **options):
        raise InterruptedError

    # What is shown is shown before the fit, which takes longer.
    monkeypatch.setattr("cnn_jax.transfer.policies.fit_logistic_regression", stop)
    for show_progress in (False, True):
        with pytest.raises(InterruptedError):
            feature_extraction(
                StagedNet(),
                make_variables(),
                CONFIG,
                *splits,
                cache_dir=tmp_path,
                show_progress=show_progress,
            )
        assert ("features" in terminal.getvalue()) == show_progress
        assert ("94/94" in terminal.getvalue()) == show_progress


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options"), [("lbfgs", {}), ("sgd", {"epochs": 40})]
)
def test_feature_extraction_reports_how_good_the_network_becomes(
    splits, method, options
):
    result = probe(splits, method=method, **options)
    variables = with_head(StagedNet(), make_variables(), result.parameters, IMAGES)
    for split, metrics in zip(splits, (result.train, result.test), strict=True):
        right = np.argmax(logits_of(variables, split), axis=-1) == split.labels
        assert metrics["accuracy"] == pytest.approx(right.mean())
        assert metrics["num_examples"] == len(split)
    # A tenth is chance; the classes differ in brightness.
    assert result.train["accuracy"] > 0.3
    assert result.num_cached == 0


def test_variables_of_another_network_have_no_features(splits):
    variables = make_variables()
    del variables["params"]["first"]
    with pytest.raises(ValueError, match=r"params/first/kernel: got nothing, exp"):
        probe(splits, variables=variables)


def stored(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def test_no_damage_of_cached_features_ends_a_run(splits, tmp_path, capsys, generator):
    (first, _) = features(splits, tmp_path)
    path = next(
        path
        for path in tmp_path.iterdir()
        if len(feature_cache._read(path)[1]) == len(first.labels)
    )
    content = path.read_bytes()
    directory = content.index(b"PK\x01\x02")
    # Of the sound file's bytes, all that say what the rest is, and some others.
    places = [*range(140), *range(directory, len(content))]
    places += generator.integers(0, len(content), 100).tolist()
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(changed)
        found = feature_cache._read(path)
        if found is not None:
            np.testing.assert_array_equal(found[0], first.features)
    huge = stored(features=np.zeros((2**13, 2**10)), labels=[1], digest="x")
    for content in (b"", b"PK", huge):
        path.write_bytes(content)
        assert feature_cache._read(path) is None
    path.unlink()
    os.mkfifo(path)
    assert feature_cache._read(path) is None
    assert capsys.readouterr().err.count(f"{path} is damaged and is made again") > 4
    assert from_files(features(splits, tmp_path)) == [False, True]
    assert from_files(features(splits, tmp_path)) == [True, True]
