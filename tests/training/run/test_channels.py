"""Grey images that meet a network for colour, and colour that meets one for grey."""

import dataclasses

import chex
import jax
import numpy as np
import PIL.Image
import pytest
from helpers.quick import nightly_except
from helpers.tiny_runs import TinyNet

import cnn_jax
from cnn_jax import cli, sharding
from cnn_jax.layers import abstract_variables
from cnn_jax.preprocessing import Preprocessing
from cnn_jax.pretrained.files import describe_own
from cnn_jax.training import TrainConfig
from cnn_jax.training.run.channels import (
    input_channels,
    weights_channels,
    with_input_channels,
)
from cnn_jax.training.run.feeds import make_evaluation
from cnn_jax.training.run.fit import fit
from cnn_jax.training.run.images import ImageFormat
from cnn_jax.transfer.policies import feature_extraction
from cnn_jax.trees import named_leaves

SAID = "images: grey, repeated to 3 channels"


def drawn(channels):
    """Returns a `TinyNet`'s variables for so many channels; compiles nothing."""
    images = jax.ShapeDtypeStruct((1, 8, 8, channels), np.float32)
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: generator.random(leaf.shape, np.float32) * 0.2,
        abstract_variables(TinyNet(), images),
    )


@pytest.fixture(scope="module")
def rgb():
    """Variables of a `TinyNet` for colour images."""
    return drawn(3)


@pytest.fixture
def short(config):
    """One epoch, normalised by what is right for any number of channels."""
    return dataclasses.replace(config, epochs=1)


def test_grey_images_are_repeated_for_variables_of_rgb(short, digits, rgb, capsys):
    """By no other numbers than those of images that the caller has repeated."""
    train, test = digits
    options = {"config": short, "initial_variables": rgb, "progress": False}
    found = fit(TinyNet(), train, test=test, **options)
    assert capsys.readouterr().out.count(SAID) == 1
    train, test = (split.with_channels(3) for split in digits)
    expected = fit(TinyNet(), train, test=test, **options)
    assert SAID not in capsys.readouterr().out
    chex.assert_trees_all_equal(found.state.params, expected.state.params)
    assert found.test == expected.test


def test_what_fits_grey_images_stays_so(digits, rgb):
    config, image = TrainConfig(image_size=8), digits[0].image_shape
    grey = drawn(1)
    assert input_channels(config, TinyNet(), image) == 1
    assert input_channels(config, TinyNet(), image, grey) == 1
    assert input_channels(config, TinyNet(), image, rgb) == 3
    assert input_channels(config, TinyNet(), (8, 8, 3), grey) == 3  # is then refused
    assert input_channels(config, TinyNet(), (None, None, 1), rgb) == 3
    backbone = {"params": {"conv": rgb["params"]["conv"]}}
    assert input_channels(config, TinyNet(num_classes=0), image, backbone) == 3


@pytest.mark.parametrize("where", ["config", "model"])
def test_what_is_asked_for_goes_first(where, rgb):
    image = (32, 32, 1)
    for channels in (1, 3):
        in_model = channels if where == "model" else None
        in_config = channels if where == "config" else None
        model = cnn_jax.create_model("lenet5", in_channels=in_model)
        config = TrainConfig(in_channels=in_config)
        assert input_channels(config, model, image, rgb) == channels
        assert weights_channels(config, model, image, lambda: 3) == channels
    model = cnn_jax.create_model("lenet5")
    assert weights_channels(TrainConfig(), model, image, lambda: 3) == 3
    assert weights_channels(TrainConfig(), model, image, lambda: 1) == 1
    assert weights_channels(TrainConfig(), model, (32, 32, 3), lambda: 1) == 3


def test_configuration_and_model_agree():
    model = cnn_jax.create_model("lenet5", in_channels=3)
    with pytest.raises(ValueError, match="in_channels: got 1 for a LeNet5 that was ma"):
        input_channels(TrainConfig(in_channels=1), model, (32, 32, 1))
    with pytest.raises(ValueError, match="in_channels: got 0, expected a whole number"):
        TrainConfig(in_channels=0).validate()


@pytest.mark.slow
def test_a_network_made_for_colour_is_kept_so(tmp_path, capsys):
    """By the run, by what is made of it, and by predictions for grey images."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (16, 32, 32, 1), np.uint8)
    split = (images, np.arange(16) % 2)
    model = cnn_jax.create_model("lenet5", num_classes=2, in_channels=3)
    run = tmp_path / "run"
    config = TrainConfig(epochs=1, batch_size=8, run_dir=str(run))
    fit(model, split, test=split, config=config, progress=False)
    assert capsys.readouterr().out.count(SAID) == 1
    own = describe_own(run)
    assert (own.fields, own.model) == ({"in_channels": 3}, "lenet5")
    assert list(own.preprocessing["input_shape"]) == [32, 32, 3]
    PIL.Image.fromarray(images[0, ..., 0]).save(tmp_path / "grey.png")
    colour = generator.integers(0, 256, (32, 32, 3), np.uint8)
    PIL.Image.fromarray(colour).save(tmp_path / "colour.png")
    paths = [str(tmp_path / f"{name}.png") for name in ("grey", "colour")]
    assert cli.main(["predict", str(run), *paths]) == 0
    assert "1 of 2 images: grey, repeated to 3 channels" in capsys.readouterr().out
    assert cli.main(["predict", str(run), paths[1]]) == 0
    assert "repeated" not in capsys.readouterr().out


def test_images_in_colour_are_made_grey_if_a_network_is_for_grey(digits, capsys):
    splits = {"train": digits[0].with_channels(3)}
    grey = with_input_channels(splits, 1)
    np.testing.assert_array_equal(grey["train"].images, digits[0].images)
    assert capsys.readouterr().out == "images: made grey\n"


def test_other_numbers_are_refused_before_any_work(tmp_path):
    images = np.zeros((8, 32, 32, 1), np.uint8)
    run = tmp_path / "run"
    config = TrainConfig(epochs=1, batch_size=8, run_dir=str(run))
    for channels, given in ((5, images), (2, images.repeat(3, axis=-1))):
        model = cnn_jax.create_model("lenet5", num_classes=2, in_channels=channels)
        with pytest.raises(ValueError, match=r"^channels: got images of [13] in "):
            fit(model, (given, np.arange(8) % 2), config=config)
    assert not run.exists()


def test_a_split_is_evaluated_with_the_formats_channels(digits, config):
    images = ImageFormat.of(Preprocessing(8, crop_fraction=1.0))
    mesh = sharding.make_mesh(jax.devices()[:1])
    feed = make_evaluation(digits[1], config, mesh, images)
    batch = next(iter(feed.batches()))
    expected = digits[1].images[: config.batch_size].repeat(3, axis=-1)
    np.testing.assert_array_equal(batch["image"], expected)


@pytest.mark.slow
def test_features_of_grey_images_are_those_of_repeated_ones(digits, rgb, capsys):
    config = TrainConfig(batch_size=64, image_size=8, weight_decay=0.01)
    variables = {
        name: jax.tree.map(np.asarray, rgb[name]) for name in ("params", "batch_stats")
    }
    found = feature_extraction(TinyNet(), variables, config, *digits)
    assert capsys.readouterr().out.count(SAID) == 1
    repeated = (split.with_channels(3) for split in digits)
    expected = feature_extraction(TinyNet(), variables, config, *repeated)
    chex.assert_trees_all_equal(found.parameters, expected.parameters)
    assert found.test == expected.test


@pytest.mark.slow
def test_batches_are_repeated_too(rgb, capsys):
    generator = np.random.default_rng(0)
    pairs = [
        (generator.random((8, 8, 8, 1), np.float32), np.arange(8) % 10)
        for _ in range(2)
    ]
    config = TrainConfig(epochs=1, batch_size=8, model="tiny")
    options = {"config": config, "initial_variables": rgb, "progress": False}
    found = fit(TinyNet(), pairs, **options)
    assert capsys.readouterr().out.count(SAID) == 1
    repeated = [(images.repeat(3, axis=-1), labels) for images, labels in pairs]
    expected = fit(TinyNet(), repeated, **options)
    chex.assert_trees_all_equal(found.state.params, expected.state.params)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of LeNet-5 for colour images."""
    model = cnn_jax.create_model("lenet5")
    shapes = abstract_variables(model, jax.ShapeDtypeStruct((1, 32, 32, 3), "float32"))
    generator = np.random.default_rng(0)
    leaves = {
        path: generator.normal(size=leaf.shape).astype(np.float32) * 0.1
        for path, leaf in named_leaves(shapes).items()
    }
    path = tmp_path_factory.mktemp("weights") / "lenet5.npz"
    np.savez(path, **leaves)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("in_channels", nightly_except([1], [None, 1, 3]))
@pytest.mark.parametrize("method", ["fine-tune", "probe"])
def test_training_from_rgb_weights_on_grey_images(
    method, in_channels, weights, tmp_path, capsys
):
    run = tmp_path / "run"
    options = ["--pretrained", weights, "--method", method, "--run-dir", run]
    options += [] if in_channels is None else ["--in-channels", in_channels]
    options += ["--epochs", 1] if method == "fine-tune" else []
    arguments = ["train", "lenet5", "--data", "digits", *options]
    assert cli.main(list(map(str, arguments))) == 0
    out = capsys.readouterr().out
    assert out.count(SAID) == (in_channels != 1)
    assert out.count("first filters: 3 to 1 channels, summed") == (in_channels == 1)
    assert list(describe_own(run).preprocessing["input_shape"]) == [
        *(32, 32),
        in_channels or 3,
    ]
    model = cnn_jax.create_model("lenet5")
    loaded, _ = cnn_jax.load_pretrained(model, run)
    assert loaded["params"]["c1"]["kernel"].shape == (5, 5, in_channels or 3, 6)


@pytest.mark.slow
def test_folders_are_decoded_to_grey_where_that_is_asked_for(tmp_path, capsys):
    generator = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(12):
            pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / "data" / name / f"{index}.png")
    arguments = ["train", "lenet5", "--data", f"folder:{tmp_path / 'data'}"]
    arguments += ["--run-dir", str(tmp_path / "run"), "--in-channels", "1"]
    assert cli.main([*arguments, "--epochs", "1"]) == 0
    assert SAID not in capsys.readouterr().out
    own = describe_own(tmp_path / "run")
    assert list(own.preprocessing["input_shape"]) == [32, 32, 1]
