"""A run records what it was given, whatever its configuration calls it."""

import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
import pytest

import cnn_jax
from cnn_jax import data, experiment
from cnn_jax.models import list_models
from cnn_jax.models.registry import registered_as
from cnn_jax.prediction import predict
from cnn_jax.pretrained import convert, load_pretrained
from cnn_jax.report.run_page import write_run_page
from cnn_jax.training import TrainConfig
from cnn_jax.training.run.directory.identity import described, identify_model
from cnn_jax.training.run.fit import fit


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "plain20", "vgg16_bn"])
def test_a_registered_model_is_known_by_its_fields(name):
    model = cnn_jax.create_model(name, num_classes=7, dtype="bfloat16")
    assert registered_as(model) == (name, {})
    assert registered_as(model, prefer="alexnet") == (name, {})


def test_every_name_stands_for_a_model_of_its_own():
    for name in list_models():
        assert registered_as(cnn_jax.create_model(name), prefer=name) == (name, {})


def test_changed_fields_are_recorded_but_for_regularizers():
    model = cnn_jax.create_model("resnet20", stem_features=32, drop_block_size=3)
    identity = identify_model(model, "lenet5")
    assert (identity["name"], identity["changed"]) == (
        "resnet20",
        {"stem_features": "32"},
    )


def made_up(name):
    images = np.zeros((4, 8, 8, 1), np.uint8)
    return data.Dataset(name, "mine", images, np.asarray([0, 1, 0, 1]), ("a", "b"))


def test_what_was_given_is_named(tiny_net):
    train, test = made_up("fruit"), made_up("fruit")
    identity = identify_model(tiny_net(), "lenet5")
    assert identity["name"] is None
    config = described(TrainConfig(), identity, train, test)
    assert config.model.endswith("tiny_runs.TinyNet")
    assert (config.dataset, config.train_split, config.test_split) == (
        *("fruit", "mine", "mine"),
    )
    # A name that no registered model has is the caller's.
    own = described(TrainConfig(model="tiny", dataset="fruit"), identity, train, test)
    assert (own.model, own.dataset, own.train_split) == ("tiny", "fruit", "train")


def test_a_folder_is_the_same_however_it_is_written(tmp_path, monkeypatch, tiny_net):
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(model="tiny", dataset="folder:pictures")
    source = made_up(f"folder:{tmp_path}/pictures")
    found = described(config, identify_model(tiny_net(), "tiny"), source, source)
    assert found == config


class Pooled(nn.Module):
    """A network for images of any size and three channels."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.Conv(4, (3, 3), name="conv")(x)).mean(axis=(1, 2))
        return nn.Dense(self.num_classes, name="head")(x)


@pytest.fixture(scope="module")
def own_run(digits, tmp_path_factory):
    """A run of somebody's own network and data by `fit`, with its page."""
    run_dir = tmp_path_factory.mktemp("own") / "run"
    config = TrainConfig(epochs=1, batch_size=32, run_dir=str(run_dir))
    splits = [
        dataclasses.replace(split.with_channels(3), name="scans") for split in digits
    ]
    result = fit(Pooled(), splits[0], test=splits[1], config=config, progress=False)
    write_run_page(run_dir)
    return run_dir, config, splits, result


def test_files_and_page_of_an_own_run(own_run):
    run_dir, *_ = own_run
    about = json.loads((run_dir / "config.json").read_text())
    assert about["config"]["model"].endswith("test_identity.Pooled")
    assert about["config"]["dataset"] == "scans"
    assert about["model"]["name"] is None
    page = (run_dir / "report.html").read_text("utf-8")
    assert "Pooled on scans" in page
    assert "the user&#x27;s own" in page or "the user's own" in page
    assert "lenet5 on" not in page


@pytest.mark.parametrize(
    "use",
    [
        lambda run, _: predict(run, ["image.png"]),
        lambda run, _: predict(run, ["image.png"], model="lenet5"),
        lambda run, _: load_pretrained("lenet5", run),
        lambda run, path: convert(run, path / "converted", "lenet5"),
        lambda run, _: experiment.run(TrainConfig(pretrained=str(run))),
    ],
    ids=["predict", "predict by name", "load", "convert", "--pretrained"],
)
def test_no_name_stands_for_an_own_model(own_run, use, tmp_path):
    message = r"its model is the user's own, \S*test_identity\.Pooled, which no name"
    with pytest.raises(ValueError, match=message):
        use(own_run[0], tmp_path)


def test_the_module_itself_takes_the_weights(own_run):
    run_dir, _, _, result = own_run
    variables, _ = load_pretrained(Pooled(), run_dir)
    jax.tree.map(
        np.testing.assert_array_equal,
        variables["params"],
        result.best_variables["params"],
    )


def test_an_own_run_resumes(own_run):
    _, config, splits, result = own_run
    resumed = dataclasses.replace(config, resume=True)
    again = fit(Pooled(), splits[0], test=splits[1], config=resumed, progress=False)
    assert again.state_digest == result.state_digest
