"""Weights converted once, and read back."""

import hashlib
import json

import chex
import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import cnn_jax
from cnn_jax import cli
from cnn_jax.checkpoint import Checkpointer, SaveError
from cnn_jax.layers import abstract_variables
from cnn_jax.prediction import predict
from cnn_jax.pretrained import convert
from cnn_jax.pretrained.convert import write_weights
from cnn_jax.pretrained.files import describe_own
from cnn_jax.pretrained.network import load_network
from cnn_jax.pretrained.rebuild import rebuild
from cnn_jax.trees import leaf_specs, named_leaves


@pytest.fixture
def file(tmp_path, lenet_arrays):
    path = tmp_path / "lenet.safetensors"
    safetensors.numpy.save_file(
        {f"module.{name}": array for name, array in lenet_arrays.items()}, path
    )
    return path


@pytest.fixture(scope="module")
def lenet_rgb():
    """Arrays of a LeNet-5 for colour images, by their paths."""
    model, generator = cnn_jax.create_model("lenet5"), np.random.default_rng(0)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    return {
        path: generator.normal(size=leaf.shape).astype(np.float32) * 0.1
        for path, leaf in named_leaves(abstract_variables(model, images)).items()
    }


def mapping_file(directory, arrays):
    """Returns a file of arrays that says nothing of their model."""
    path = directory / "arrays.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture
def destination(tmp_path):
    return tmp_path / "into" / "lenet"


def run(capsys, *arguments):
    status = cli.main(["convert", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_round_trip(file, destination, lenet, capsys):
    status, out, err = run(capsys, file, destination, "--model", "lenet5")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert (status, err) == (0, "")
    assert "10 arrays loaded, named as by torchvision" in out
    assert digest in out
    loaded, report = cnn_jax.load_pretrained("lenet5", destination)
    chex.assert_trees_all_equal(loaded, lenet)
    assert report.source == "cnn_jax"
    assert not report.cast
    with Checkpointer(destination) as checkpointer:
        metadata = checkpointer.metadata()
        restored = checkpointer.restore(jax.tree.map(np.zeros_like, lenet)).tree
    chex.assert_trees_all_equal(restored, lenet)
    assert metadata["sha256"] == digest
    assert metadata["source"] == "torchvision"
    assert metadata["location"] == str(file)
    assert (metadata["model"], metadata["num_classes"]) == ("lenet5", 10)
    assert metadata["keys"]["c1.weight"] == "params/c1/kernel"
    assert metadata["arrays"] == leaf_specs(lenet)
    assert "jax" in metadata["versions"]
    assert [path.name for path in destination.parent.iterdir()] == ["lenet"]


def test_json_and_another_number_of_classes(file, destination, lenet, capsys):
    status, out, _ = run(
        capsys, file, destination, "--model", "lenet5", "--num-classes", 3, "--json"
    )
    content = json.loads(out)
    assert status == 0
    assert content["num_classes"] == 3
    assert sorted(content["initialized"]) == ["params/head/bias", "params/head/kernel"]
    assert content["destination"] == str(destination)
    loaded, _ = cnn_jax.load_pretrained("lenet5", destination, num_classes=3)
    assert loaded["params"]["head"]["kernel"].shape == (84, 3)
    chex.assert_trees_all_equal(loaded["params"]["c5"], lenet["params"]["c5"])
    with pytest.raises(ValueError, match=r"num_classes: got None.*for 3 classes"):
        cnn_jax.load_pretrained("lenet5", destination)


SAID = {"mean": [0.5] * 3, "std": [0.25] * 3, "input_shape": [32, 32, 3]}


def rgb_weights(directory, arrays, said=SAID, fields=()):
    """Returns converted weights of a LeNet-5 that say how RGB images are prepared."""
    source, destination = mapping_file(directory, arrays), directory / "rgb.npz"
    _, metadata = convert(source, destination, "lenet5")
    destination.unlink()
    variables, _ = cnn_jax.load_pretrained("lenet5", arrays)
    metadata = {**metadata, "preprocessing": said, "fields": dict(fields)}
    write_weights(destination, variables, metadata)
    return destination


@pytest.mark.parametrize("suffix", ["", ".safetensors", ".npz"])
def test_weights_for_grey_images(suffix, tmp_path, lenet_rgb, capsys):
    """Answer a grey photograph as those for RGB answered its three copies."""
    source, destination = rgb_weights(tmp_path, lenet_rgb), tmp_path / f"grey{suffix}"
    status, out, err = run(capsys, source, destination, "--in-channels", 1)
    assert (status, err) == (0, "")
    assert "first filters: 3 to 1 channels, summed" in out
    loaded, report = cnn_jax.load_pretrained("lenet5", destination)
    filters = lenet_rgb["params/c1/kernel"].sum(axis=2, keepdims=True)
    np.testing.assert_allclose(loaded["params"]["c1"]["kernel"], filters, rtol=1e-5)
    assert not report.converted  # once is enough
    said = report.provenance.preprocessing
    assert {name: list(said[name]) for name in SAID} == {
        "mean": [0.5],
        "std": [0.25],
        "input_shape": [32, 32, 1],
    }
    photo = tmp_path / "grey.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32), np.uint8)
    Image.fromarray(pixels).save(photo)
    (grey,), (rgb,) = predict(destination, [photo]), predict(source, [photo])
    assert (grey.is_grey, rgb.is_grey) == (False, True)
    assert grey.classes == rgb.classes
    np.testing.assert_allclose(grey.probabilities, rgb.probabilities, atol=1e-5)


def test_the_usual_preparation_goes_with_the_filters(tmp_path, capsys):
    """Of weights that say none, so that theirs is the registry's, for RGB."""
    model = cnn_jax.create_model("resnet20")
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    arrays = {
        path: np.full(leaf.shape, 0.5, np.float32)
        for path, leaf in named_leaves(abstract_variables(model, images)).items()
    }
    arguments = ("--model", "resnet20", "--in-channels", 5, "--json")
    destination = tmp_path / "five.npz"
    _, out, _ = run(capsys, mapping_file(tmp_path, arrays), destination, *arguments)
    content = json.loads(out)
    (pair,) = content["converted"].values()
    assert pair == [3, 5]
    usual = cnn_jax.model_info("resnet20").preprocessing
    red, green, blue = usual.mean
    assert content["preprocessing"]["mean"] == [red, green, blue, red, green]
    network = load_network(destination)  # a warning would be an error
    assert network.preprocessing.mean == (red, green, blue, red, green)
    assert network.preprocessing.interpolation == usual.interpolation


def test_a_model_made_for_rgb_is_made_for_grey_then(tmp_path, lenet_rgb):
    """Of weights that say for how many channels their model was made."""
    source = rgb_weights(tmp_path, lenet_rgb, fields={"in_channels": 3}.items())
    assert rebuild(source, describe_own(source)).in_channels == 3
    destination = tmp_path / "grey.npz"
    _, metadata = convert(source, destination, in_channels=1)
    assert metadata["fields"] == {"in_channels": 1}
    found = rebuild(destination, describe_own(destination))
    assert found.in_channels == 1
    loaded, _ = cnn_jax.load_pretrained(found, destination)
    assert loaded["params"]["c1"]["kernel"].shape == (5, 5, 1, 6)


@pytest.mark.parametrize("number", [0, -1, 10**9])
def test_channels_that_no_image_has(number, file, destination, capsys):
    arguments = (file, destination, "--model", "lenet5", "--in-channels", number)
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"cnn-jax: error: in_channels: got {number}, expected a who")
    assert err.count("\n") == 1
    assert not destination.parent.exists()


def test_weights_for_grey_images_are_not_made_into_others(
    tmp_path, lenet_rgb, destination, capsys
):
    source, grey = mapping_file(tmp_path, lenet_rgb), tmp_path / "grey.npz"
    convert(source, grey, "lenet5", in_channels=1)
    status, out, err = run(capsys, grey, destination, "--in-channels", 3)
    assert (status, out) == (2, "")
    assert "got weights for images of 1 channel (grey)" in err
    assert err.count("\n") == 1
    assert not destination.parent.exists()
    status, out, _ = run(capsys, grey, destination, "--in-channels", 1)
    assert status == 0
    assert "first filters" not in out


def test_preprocessing_is_kept(file, destination, monkeypatch):
    """Of a file from the Hub, and through a second conversion."""
    from cnn_jax.pretrained.files import Provenance, hub

    found = Provenance("hf-hub:a/b", file, revision="c0", preprocessing={"mean": [0.5]})
    monkeypatch.setattr(hub, "fetch", lambda name: found)
    _, metadata = convert("hf-hub:a/b", destination, "lenet5")
    assert (metadata["location"], metadata["revision"]) == ("hf-hub:a/b", "c0")
    _, report = cnn_jax.load_pretrained("lenet5", destination)
    assert report.provenance.preprocessing == {"mean": [0.5]}
    again = destination.with_name("again")
    _, metadata = convert(destination, again, "lenet5")
    assert (metadata["source"], metadata["sha256"]) == ("cnn_jax", None)
    _, report = cnn_jax.load_pretrained("lenet5", again)
    assert report.provenance.preprocessing == {"mean": [0.5]}


def test_an_existing_directory_is_not_touched(file, destination, capsys):
    destination.mkdir(parents=True)
    status, out, err = run(capsys, file, destination, "--model", "lenet5")
    assert (status, out) == (2, "")
    assert "exists already" in err
    assert not list(destination.iterdir())


def test_what_does_not_fit_is_not_written(file, destination, capsys):
    for model, message in (
        ("resnet20", "none is named as in a ResNet"),
        ("lenet6", "unknown name 'lenet6'"),
    ):
        status, out, err = run(capsys, file, destination, "--model", model)
        assert (status, out) == (2, "")
        assert message in err
    status, _, err = run(capsys, "absent.npz", destination, "--model", "lenet5")
    assert status == 2
    assert "no such file" in err
    assert not destination.parent.exists()


def test_nothing_is_left_of_a_write_that_failed(file, destination, monkeypatch):
    def fail(*arguments, **keywords):
        raise OSError("disk full")

    monkeypatch.setattr(Checkpointer, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        convert(file, destination, "lenet5")
    assert not list(destination.parent.iterdir())


def test_a_checkpoint_that_cannot_be_written_is_one_sentence(
    file, destination, monkeypatch, capsys
):
    def fail(*arguments, **keywords):
        raise SaveError("step 0 could not be saved; no space left.")

    monkeypatch.setattr(Checkpointer, "save", fail)
    status, out, err = run(capsys, file, destination, "--model", "lenet5")
    assert (status, out) == (2, "")
    assert err == "cnn-jax: error: step 0 could not be saved; no space left.\n"
    assert not list(destination.parent.iterdir())


class TestBadDirectories:
    @pytest.fixture
    def converted(self, file, destination):
        convert(file, destination, "lenet5")
        return destination

    def test_empty(self, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(FileNotFoundError, match="empty directory"):
            cnn_jax.load_pretrained("lenet5", tmp_path / "empty")

    def test_something_else(self, tmp_path, lenet):
        with Checkpointer(tmp_path / "run") as checkpointer:
            checkpointer.save(5, {"step": np.array(5)}, {"config": {}})
        with pytest.raises(ValueError, match="checkpoint of something else"):
            cnn_jax.load_pretrained("lenet5", tmp_path / "run")

    def test_another_model(self, converted):
        with pytest.raises(ValueError, match="unexpected: params/c1/bias"):
            cnn_jax.load_pretrained("resnet20", converted)

    def test_damaged(self, converted):
        data = [path for path in converted.rglob("d/*") if path.is_file()]
        largest = max(data, key=lambda path: path.stat().st_size)
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
        with pytest.raises(ValueError, match="checkpoint is damaged") as error:
            cnn_jax.load_pretrained("lenet5", converted)
        assert str(error.value).count(str(converted)) == 1
