"""The model of a run or of converted weights is made again as it was."""

import json
import os
import warnings

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import safetensors
import safetensors.numpy
from helpers.quick import slow_except
from helpers.runs import make_run, scaled

import cnn_jax
from cnn_jax import cli
from cnn_jax.data import Dataset
from cnn_jax.layers import abstract_variables
from cnn_jax.prediction import predict
from cnn_jax.pretrained import convert
from cnn_jax.pretrained.files import describe_own
from cnn_jax.pretrained.rebuild import rebuild
from cnn_jax.training import TrainConfig
from cnn_jax.training.run.directory.identity import identify_model
from cnn_jax.training.run.fit import fit
from cnn_jax.trees import leaf_specs, named_leaves

DESTINATIONS = ("weights", "weights.safetensors", "weights.npz")


def variables_of(model, shape, scale=0.3):
    """Returns a model's variables for such images, drawn at random."""
    shapes = abstract_variables(model, jnp.zeros((1, *shape)))
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: (generator.normal(size=leaf.shape) * scale).astype(leaf.dtype),
        shapes,
    )


def images_of(shape, num_classes):
    return {
        "class_names": [f"kind {number}" for number in range(num_classes)],
        "mean": [0.4] * shape[-1],
        "std": [0.2] * shape[-1],
        "input_shape": list(shape),
    }


def run_of(path, network, shape, **config):
    """Writes a run of a model; returns it and the weights that it reports."""
    variables = variables_of(network, shape)
    metadata = {
        "images": images_of(shape, network.num_classes),
        "model": identify_model(network, config.get("model", "")),
    }
    name = metadata["model"]["name"]
    config = {"model": name, "mean": None, "std": None, **config}
    return make_run(path, variables, steps=[1], metadata=metadata, **config), variables


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    return path


def expected_probabilities(model, variables, photo, shape):
    """As the run's own evaluation prepares an image."""
    image = PIL.Image.open(photo).convert({1: "L", 3: "RGB"}[shape[-1]])
    side = min(image.size)
    top, left = ((size - side) // 2 for size in (image.size[1], image.size[0]))
    image = image.resize(
        shape[1::-1],
        PIL.Image.Resampling.BILINEAR,
        box=(left, top, left + side, top + side),
    )
    x = np.asarray(image, np.float32).reshape(1, *shape) / 255
    x = ((x - 0.4) / 0.2).astype(np.float32)
    logits = model.apply(variables, x.astype(model.dtype or "float32"), train=False)
    return np.asarray(jax.nn.softmax(logits))[0]


def probabilities(prediction):
    found = np.zeros(len(prediction.classes))
    found[list(prediction.classes)] = prediction.probabilities
    return found


class TestChannels:
    """Of the images that a run was trained on."""

    @pytest.mark.parametrize(
        ("name", "channels"),
        [
            *(("lenet5", 1), ("lenet5", 2), ("vgg8_cifar", 4), ("resnet20", 1)),
            *(
                pytest.param(name, channels, marks=pytest.mark.nightly)
                for name, channels in (
                    *(("lenet5", 3), ("lenet5", 4), ("vgg8_cifar", 1)),
                    *(("efficientnet_cifar", 1), ("plain20", 1), ("resnet20", 2)),
                )
            ),
        ],
    )
    def test_any_number_loads(self, name, channels, tmp_path):
        model = cnn_jax.create_model(name, num_classes=7)
        shape = (32, 32, channels)
        run, variables = run_of(tmp_path / "run", model, shape)
        for who, options in ((name, {"num_classes": 7}), (model, {})):
            loaded, report = cnn_jax.load_pretrained(who, run, **options)
            chex.assert_trees_all_equal(loaded, variables)
            assert report.input_shape == shape
            assert not report.ignored
        for other in {1, 3} - {channels}:
            if channels == 3:  # RGB's filters are converted, see test_channels.py
                continue
            with pytest.raises(ValueError, match="for images of") as error:
                cnn_jax.load_pretrained(model, run, input_shape=(32, 32, other))
            (line,) = str(error.value).splitlines()
            for number in (channels, other):
                noun = "channel" if number == 1 else "channels"
                assert f"images of {number} {noun}" in line

    def test_is_found_out_where_nothing_says_it(self, tmp_path):
        """Older runs and plain files of arrays, under any library's names."""
        model = cnn_jax.create_model("resnet20")
        variables = variables_of(model, (32, 32, 1))
        run = make_run(tmp_path / "run", variables, steps=[1], image_size=32)
        for where in (run, named_leaves(variables)):
            loaded, report = cnn_jax.load_pretrained("resnet20", where)
            chex.assert_trees_all_equal(loaded, variables)
            assert report.input_shape == (32, 32, 1)

    def test_of_pytorchs_names(self, lenet_arrays):
        filters = lenet_arrays["c1.weight"]
        lenet_arrays["c1.weight"] = np.concatenate([filters, filters, filters], axis=1)
        loaded, report = cnn_jax.load_pretrained("lenet5", lenet_arrays)
        assert loaded["params"]["c1"]["kernel"].shape == (5, 5, 3, 6)
        assert report.input_shape == (32, 32, 3)
        lenet_arrays["c1.weight"] = np.concatenate([filters, filters], axis=1)
        with pytest.raises(ValueError, match=r"expected some .* 1 channel .grey"):
            cnn_jax.load_pretrained("lenet5", lenet_arrays, input_shape=(32, 32, 1))

    def test_other_misfits_are_still_listed(self, lenet_arrays):
        lenet_arrays["c1.weight"] = lenet_arrays["c1.weight"].repeat(3, axis=1)
        lenet_arrays["c3.weight"] = lenet_arrays["c3.weight"][:, :5]
        with pytest.raises(ValueError, match="do not fit the model, in 4 places"):
            cnn_jax.load_pretrained("lenet5", lenet_arrays)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_photos_are_brought_to_them(self, channels, tmp_path, photo):
        model = cnn_jax.create_model("lenet5", num_classes=4)
        shape = (36, 36, channels)
        run, variables = run_of(tmp_path / "run", model, shape)
        (found,) = predict(run, [photo])
        assert sorted(found.names) == [f"kind {number}" for number in range(4)]
        np.testing.assert_allclose(
            probabilities(found),
            expected_probabilities(model, variables, photo, shape),
            atol=5e-3,
        )

    def test_photos_have_one_or_three(self, tmp_path, photo):
        model = cnn_jax.create_model("lenet5", num_classes=4)
        run, _ = run_of(tmp_path / "run", model, (32, 32, 4))
        with pytest.raises(ValueError, match=r"images of 4 channels.*have 1 or 3"):
            predict(run, [photo])

    def test_a_guessed_normalisation_is_said(self, tmp_path, photo):
        model = cnn_jax.create_model("lenet5")
        variables = variables_of(model, (32, 32, 3))
        path = tmp_path / "weights.npz"
        np.savez(path, **named_leaves(variables))
        with pytest.warns(UserWarning, match="weights do not say how it normalised"):
            assert predict(path, [photo], model="lenet5")


class TestFields:
    def test_that_json_holds_make_the_model_again(self, tmp_path):
        model = cnn_jax.create_model(
            "resnet20",
            num_classes=5,
            stage_sizes=(1, 1, 2),
            dtype="bfloat16",
        )
        run, variables = run_of(
            tmp_path / "run", model, (32, 32, 1), model="resnet20", dtype="bfloat16"
        )
        for where in (run, *(tmp_path / name for name in DESTINATIONS)):
            if where != run:
                convert(run, where)
            own = describe_own(where)
            found = rebuild(where, own)
            assert found == model
            loaded, _ = cnn_jax.load_pretrained(found, where)
            chex.assert_trees_all_equal(loaded, variables)
            message = r"resnet20 with stage_sizes=\(1, 1, 2\); make it by create_model"
            with pytest.raises(ValueError, match=message):
                cnn_jax.load_pretrained("resnet20", where, num_classes=5)

    @pytest.mark.parametrize("channels", slow_except([3], [1, 3, 5]))
    def test_channels_are_kept_and_need_no_model_made_for_them(
        self, channels, tmp_path
    ):
        model = cnn_jax.create_model("lenet5", num_classes=5, in_channels=channels)
        run, variables = run_of(tmp_path / "run", model, (32, 32, channels))
        for where in (run, tmp_path / "weights.npz"):
            if where != run:
                convert(run, where)
            own = describe_own(where)
            assert own.fields == {"in_channels": channels}
            found = rebuild(where, own)
            assert found == model
            for who, options in ((found, {}), ("lenet5", {"num_classes": 5})):
                loaded, report = cnn_jax.load_pretrained(who, where, **options)
                chex.assert_trees_all_equal(loaded, variables)
                assert report.input_shape == (32, 32, channels)
                assert not report.converted

    def test_that_no_file_holds_are_said(self, tmp_path, photo):
        model = cnn_jax.create_model("lenet5", num_classes=5, activation=nn.relu)
        described = identify_model(model, "lenet5")
        assert (list(described["changed"]), described["fields"]) == (["activation"], {})
        run, variables = run_of(tmp_path / "run", model, (32, 32, 1))
        for use in (
            lambda: predict(run, [photo]),
            lambda: convert(run, tmp_path / "weights.npz"),
        ):
            with pytest.raises(
                ValueError, match=r"lenet5 with activation=.*pass it to load_pre"
            ):
                use()
        loaded, _ = cnn_jax.load_pretrained(model, run)
        chex.assert_trees_all_equal(loaded, variables)

    def test_a_run_records_them(self, tmp_path):
        """Whatever the configuration calls the model."""
        model = cnn_jax.create_model("lenet5", num_classes=3, remat=True)
        images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 2), np.uint8)
        data = Dataset("noise", "train", images, np.arange(8) % 3, tuple("abc"))
        config = TrainConfig(
            model="resnet20", epochs=1, batch_size=8, run_dir=str(tmp_path / "run")
        )
        fit(model, data, test=data, config=config, progress=False)
        own = describe_own(tmp_path / "run")
        assert (own.model, own.fields) == ("lenet5", {"remat": True})
        assert own.preprocessing["input_shape"] == [32, 32, 2]
        loaded, _ = cnn_jax.load_pretrained(rebuild("run", own), tmp_path / "run")
        assert loaded["params"]["c1"]["kernel"].shape == (5, 5, 2, 6)


class TestDtypes:
    def test_of_the_computation(self, tmp_path, photo):
        shape = (32, 32, 1)
        model = cnn_jax.create_model("lenet5", num_classes=4, dtype="bfloat16")
        run, variables = run_of(tmp_path / "run", model, shape, dtype="bfloat16")
        (found,) = predict(run, [photo])
        expected = expected_probabilities(model, variables, photo, shape)
        np.testing.assert_allclose(probabilities(found), expected, atol=2e-2)
        assert rebuild(run, describe_own(run)).dtype == jnp.bfloat16
        convert(run, tmp_path / "weights.safetensors")
        assert predict(tmp_path / "weights.safetensors", [photo]) == [found]

    def test_of_the_parameters(self, tmp_path, photo):
        model = cnn_jax.create_model("lenet5", num_classes=4, param_dtype=jnp.bfloat16)
        run, variables = run_of(tmp_path / "run", model, (32, 32, 1))
        convert(run, tmp_path / "weights.safetensors")
        content = safetensors.numpy.load_file(tmp_path / "weights.safetensors")
        assert leaf_specs(content) == leaf_specs(named_leaves(variables))
        found = predict(run, [photo])
        assert predict(tmp_path / "weights.safetensors", [photo]) == found
        with pytest.raises(ValueError, match=r"bfloat16 arrays.*write a \.safetensors"):
            convert(run, tmp_path / "weights.npz")
        assert not (tmp_path / "weights.npz").exists()

    def test_of_64_bits(self, tmp_path, photo):
        with jax.enable_x64(True):
            model = cnn_jax.create_model("lenet5", num_classes=4, param_dtype="float64")
            run, variables = run_of(tmp_path / "run", model, (32, 32, 1))
            loaded, _ = cnn_jax.load_pretrained(rebuild(run, describe_own(run)), run)
            chex.assert_trees_all_equal(loaded, variables)
        assert leaf_specs(variables)["params/c1/bias"] == "float64[6]"
        with warnings.catch_warnings(action="error"):
            (found,) = predict(run, [photo])
        assert len(found.classes) == 4


class TestFiles:
    """The files that `convert` writes by its destination's suffix, and reads back."""

    @pytest.fixture
    def run(self, tmp_path):
        model = cnn_jax.create_model("lenet5", num_classes=4)
        return run_of(tmp_path / "run", model, (36, 36, 3))

    @pytest.mark.parametrize("destination", DESTINATIONS)
    def test_gives_the_same_predictions(
        self, destination, run, tmp_path, photo, capsys, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        run, variables = run
        assert cli.main(["convert", "run", destination]) == 0
        out, err = capsys.readouterr()
        assert "ignored" not in out
        assert (err, out.splitlines()[-1]) == ("", f"written to {destination}")
        path = tmp_path / destination
        assert path.is_file() == (destination != "weights")
        loaded, report = cnn_jax.load_pretrained("lenet5", path, num_classes=4)
        chex.assert_trees_all_equal(loaded, variables)
        assert report.source == "cnn_jax"
        images = images_of((36, 36, 3), 4)
        names = images.pop("class_names")
        # What is not in the record is as versions had it that did not write it.
        crop = {"crop_fraction": 1.0, "crop_mode": "center"}
        expected = {**images, **crop, "interpolation": "bilinear"}
        assert report.provenance.preprocessing == expected
        own = describe_own(path)
        assert (own.model, own.class_names) == ("lenet5", tuple(names))
        assert predict(path, [photo]) == predict(run, [photo])
        again = tmp_path / f"again-{destination}"
        convert(path, again)
        assert predict(again, [photo]) == predict(run, [photo])
        left = {"run", "photo.png", destination, again.name}
        assert set(os.listdir(tmp_path)) == left

    def test_are_readable_by_others(self, run, tmp_path):
        run, variables = run
        convert(run, tmp_path / "weights.safetensors")
        with safetensors.safe_open(tmp_path / "weights.safetensors", "np") as file:
            metadata = json.loads(file.metadata()["cnn_jax"])
        assert (metadata["model"], metadata["num_classes"]) == ("lenet5", 4)
        content = safetensors.numpy.load_file(tmp_path / "weights.safetensors")
        chex.assert_trees_all_equal(content, named_leaves(variables))
        assert os.stat(tmp_path / "weights.safetensors").st_mode & 0o777 == 0o644

    @pytest.mark.parametrize("name", ["a.pth", "a.weights.h5", "lenet_0.5", "a.npz2"])
    def test_other_suffixes_are_refused(self, name, run, tmp_path, capsys):
        arguments = ["convert", str(tmp_path / "run"), str(tmp_path / name)]
        assert cli.main(arguments) == 2
        assert "expected .safetensors or .npz for a file" in capsys.readouterr().err
        assert not (tmp_path / name).exists()

    @pytest.mark.parametrize("destination", DESTINATIONS)
    @pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
    def test_what_exists_is_kept(self, destination, kind, run, tmp_path, capsys):
        path = tmp_path / destination
        if kind == "file":
            path.write_text("mine")
        elif kind == "directory":
            path.mkdir()
        else:
            path.symlink_to(tmp_path / "nowhere")
        assert cli.main(["convert", str(tmp_path / "run"), str(path)]) == 2
        assert "exists already" in capsys.readouterr().err
        assert path.is_symlink() == (kind == "dangling link")
        assert kind != "file" or path.read_text() == "mine"
        assert not (tmp_path / "nowhere").exists()

    def test_what_appears_meanwhile_is_kept_too(self, run, tmp_path, monkeypatch):
        path = tmp_path / "weights.npz"

        def save(file, **arrays):
            path.write_text("another's")

        monkeypatch.setattr(np, "savez", save)
        with pytest.raises(FileExistsError):
            convert(tmp_path / "run", path)
        assert path.read_text() == "another's"
        assert set(os.listdir(tmp_path)) == {"run", "weights.npz"}

    def test_nothing_is_left_of_a_write_that_failed(self, run, tmp_path, monkeypatch):
        def fail(file, **arrays):
            file.write(b"half")
            raise OSError("disk full")

        monkeypatch.setattr(np, "savez", fail)
        with pytest.raises(OSError, match="disk full"):
            convert(tmp_path / "run", tmp_path / "weights.npz")
        assert os.listdir(tmp_path) == ["run"]

    @pytest.mark.parametrize(
        "change",
        [
            {"model": 3},
            {"num_classes": "10"},
            {"dtype": "int8"},
            {"class_names": 5},
            {"fields": []},
            {"fields": {"nonsense": 1}},
            {"preprocessing": {"mean": [[1]]}},
            {"preprocessing": {"std": [0]}},
            {"preprocessing": {"input_shape": [10**9, 10**9, 3]}},
            {"preprocessing": {"input_shape": [32, 32]}},
            "no JSON",
            [1],
        ],
        ids=str,
    )
    def test_metadata_that_are_none_are_one_sentence(
        self, change, lenet, tmp_path, photo, capsys
    ):
        metadata = {
            "model": "lenet5",
            "num_classes": 10,
            "preprocessing": {},
        }
        text = json.dumps(
            {**metadata, **change} if isinstance(change, dict) else change
        )
        text = change if isinstance(change, str) else text
        arrays = named_leaves(lenet)
        path = tmp_path / "weights.safetensors"
        safetensors.numpy.save_file(arrays, path, {"cnn_jax": text})
        assert cli.main(["predict", str(path), str(photo)]) == 2
        npz = tmp_path / "weights.npz"
        np.savez(npz, **arrays, cnn_jax=np.frombuffer(text.encode(), np.uint8))
        assert cli.main(["predict", str(npz), str(photo)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 2)

    def test_weights_of_others_say_nothing(self, lenet, tmp_path):
        path = tmp_path / "weights.safetensors"
        safetensors.numpy.save_file(named_leaves(lenet), path, {"format": "pt"})
        assert describe_own(path) is None

    def test_the_model_must_be_known(self, lenet, tmp_path, capsys):
        path = tmp_path / "weights.npz"
        np.savez(path, **named_leaves(lenet))
        for arguments in (["convert", str(path), "out"], ["predict", str(path), "p"]):
            assert cli.main(arguments) == 2
            assert "name the model" in capsys.readouterr().err
            arguments[1] = str(tmp_path / "absent.npz")
            assert cli.main(arguments) == 2
            assert "no such file of weights" in capsys.readouterr().err


def test_averages_are_what_is_kept_and_the_rest_is_counted(tmp_path):
    model = cnn_jax.create_model("lenet5", num_classes=4)
    variables = variables_of(model, (32, 32, 1))
    run = make_run(tmp_path / "run", variables, steps=[1], average=True)
    report, metadata = convert(run, tmp_path / "weights.safetensors", "lenet5")
    loaded, _ = cnn_jax.load_pretrained(model, tmp_path / "weights.safetensors")
    chex.assert_trees_all_equal(loaded, scaled(variables, 10))
    raw = {f"state/{path}" for path in named_leaves(variables)}
    assert set(report.ignored) == raw
    assert metadata["part"] == "newest checkpoint, step 1, moving averages"


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"stage_sizes": (10**6,) * 3}, marks=pytest.mark.slow),
        {"stage_sizes": (2**21, 1, 1)},
        *({"stage_sizes": value} for value in ("x", 3, (), (1.5,), (None,), (-1,))),
        *({"stage_sizes": (1, 1, 1), "stem_filters": value} for value in ("x", 1e30)),
        {"unknown": 1},
        {"": 1},
    ],
    ids=str,
)
def test_a_model_without_an_end_is_not_made(fields, tmp_path):
    """The fields are a file's, which may come from anybody."""
    name = "resnet20"
    path = tmp_path / "weights.npz"
    said = {"model": name, "num_classes": 10, "preprocessing": {}, "fields": fields}
    content = json.dumps(said).encode()
    np.savez(path, cnn_jax=np.frombuffer(content, np.uint8))
    with pytest.raises(ValueError, match=r"weights\.npz: got (weights|metadata)"):
        rebuild(path, describe_own(path))


def test_more_classes_than_there_can_be():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"num_classes: got 10+, expected a whole"):
        cnn_jax.load_pretrained("lenet5", {"a": 1}, num_classes=10**24, key=key)
