"""Training runs as weights, and directories that reading leaves as they were."""

import os
import warnings

import chex
import jax
import numpy as np
import PIL.Image
import pytest
from helpers.runs import make_run, scaled

import cnn_jax
from cnn_jax import cli
from cnn_jax.checkpoint import Checkpointer, DamagedCheckpointWarning
from cnn_jax.data import Dataset
from cnn_jax.prediction import predict
from cnn_jax.pretrained import convert
from cnn_jax.pretrained.files import describe_own, open_weights
from cnn_jax.training import TrainConfig
from cnn_jax.training.run.fit import fit


def snapshot(directory):
    """Returns all that can be seen of a directory: names, times, modes and bytes."""
    paths = [directory, *sorted(directory.rglob("*"))]
    return {
        path: (
            path.stat().st_mtime_ns,
            path.stat().st_mode,
            path.read_bytes() if path.is_file() else None,
        )
        for path in paths
    }


def damage(step):
    """Changes one bit of a checkpoint's largest file."""
    files = [path for path in step.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def load(path, **arguments):
    return cnn_jax.load_pretrained("lenet5", path, **arguments)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def lenet7(lenet):
    """For another number of classes than the model's own."""
    head = {name: leaf[..., :7] for name, leaf in lenet["params"]["head"].items()}
    return {"params": {**lenet["params"], "head": head}}


class TestReadingChangesNothing:
    """A reader takes no lock, creates nothing and clears nothing up."""

    @pytest.fixture(params=["run", "converted", "unrelated", "read-only"])
    def directory(self, request, tmp_path, lenet):
        path = tmp_path / "directory"
        if request.param == "unrelated":
            path.mkdir()
            (path / "notes.txt").write_text("mine")
        elif request.param == "converted":
            convert(lenet_file(tmp_path, lenet), path, "lenet5")
        else:
            make_run(path, lenet)
        # What a writer that starts here would remove.
        for place in (path, path / "checkpoints"):
            if place.is_dir():
                (place / "4.unfinished").mkdir()
                (place / "4.unfinished" / "precious").write_text("mine")
                (place / "3.removed").mkdir()
        if request.param == "read-only":
            for place in (path, *path.rglob("*")):
                place.chmod(0o555 if place.is_dir() else 0o444)
        yield path
        for place in (path, *path.rglob("*")):
            place.chmod(0o755)

    def test_by_every_reader(self, directory, image, tmp_path):
        before = snapshot(directory)
        destination = tmp_path / "converted again"
        for places in (directory, directory / "checkpoints"):
            if not places.is_dir():
                continue
            for read in (
                lambda path: load(path),
                lambda path: predict(path, [image]),
                lambda path: convert(path, destination / path.name, "lenet5"),
            ):
                if (directory / "notes.txt").exists():
                    with pytest.raises(FileNotFoundError, match="expected a check"):
                        read(places)
                else:
                    read(places)
        assert snapshot(directory) == before


def lenet_file(tmp_path, lenet):
    path = tmp_path / "lenet.npz"
    np.savez(path, **cnn_jax.trees.named_leaves(lenet))
    return path


def test_two_readers_at_once(tmp_path, lenet):
    run = make_run(tmp_path / "run", lenet, steps=[1])
    with open_weights(run) as one, open_weights(run / "checkpoints") as other:
        for weights in (one, other):
            found = weights.arrays["params/c1/kernel"].read()
            np.testing.assert_array_equal(found, lenet["params"]["c1"]["kernel"])


def test_reading_beside_the_run_that_writes(tmp_path, lenet, image):
    run = make_run(tmp_path / "run", lenet, steps=[1])
    with Checkpointer(run / "checkpoints", keep=9) as writer:
        (run / "checkpoints" / "5.unfinished").mkdir()
        before = snapshot(run)
        chex.assert_trees_all_equal(load(run)[0], lenet)
        assert predict(run, [image])
        assert snapshot(run) == before
        with open_weights(run) as weights:  # what is described is what is read
            writer.save(2, {"x": np.zeros(3)}, {})
            writer.wait()
            found = weights.arrays["params/c1/kernel"].read()
        np.testing.assert_array_equal(found, lenet["params"]["c1"]["kernel"])
        assert writer.steps == (1, 2)


class TestWhatARunReports:
    """`fit` itself wrote these runs."""

    @pytest.mark.parametrize(
        "decides",
        [
            pytest.param(False, id="newest", marks=pytest.mark.slow),
            pytest.param(True, id="best average"),
        ],
    )
    def test_is_what_is_loaded(self, decides, tmp_path, image):
        generator = np.random.default_rng(0)
        train, test = (
            Dataset(
                name="noise",
                split=split,
                images=generator.integers(0, 256, (96, 32, 32, 1), np.uint8),
                labels=generator.integers(0, 7, 96).astype(np.int32),
                class_names=tuple("abcdefg"),
            )
            for split in ("train", "test")
        )
        config = TrainConfig(
            model="lenet5",
            epochs=3,
            batch_size=16,
            ema_decay=0.9 if decides else None,
            validation_fraction=0.5 if decides else 0.0,
            learning_rate=0.05,
            mean=(0.5,) if decides else None,
            std=(0.25,) if decides else None,
            run_dir=str(tmp_path / "run"),
            keep_checkpoints=1,
            seed=3,
        )
        model = cnn_jax.create_model("lenet5", num_classes=7)
        result = fit(model, train, test=test, config=config, progress=False)
        last = len(result.history)
        if decides:
            assert result.best_epoch < last
        for path in (tmp_path / "run", tmp_path / "run" / "checkpoints"):
            for loaded, report in (
                cnn_jax.load_pretrained(model, path),
                load(str(path), num_classes=7),
            ):
                expected = {
                    name: leaves
                    for name, leaves in result.best_variables.items()
                    if leaves
                }
                chex.assert_trees_all_equal(loaded, expected)
                step = result.history[result.best_epoch - 1]["step"]
                assert report.provenance.part == (
                    f"best checkpoint, step {step}, moving averages"
                    if decides
                    else f"newest checkpoint, step {step}"
                )
                mean, std = ([0.5], [0.25]) if decides else train.channel_statistics
                assert report.provenance.preprocessing == {
                    "size": 32,
                    "mean": list(mean),
                    "std": list(std),
                    "crop_fraction": 1.0,
                    "crop_mode": "center",
                    "interpolation": "bilinear",
                    "channels": 1,
                    "input_shape": [32, 32, 1],
                }
        (found,) = predict(tmp_path / "run", [image], top=9)
        assert sorted(found.classes) == list(range(7))
        assert sorted(found.names) == list("abcdefg")


class TestWhichCheckpoint:
    @pytest.mark.parametrize(
        ("best", "average", "named", "step"),
        [
            (0, False, ".", 3),
            (0, True, ".", 3),
            (1, False, ".", 1),
            (2, True, ".", 2),
            (2, False, "checkpoints", 2),
            (0, False, "checkpoints", 3),
            (3, False, "checkpoints/1", 1),
            (1, True, "checkpoints/2", 2),
        ],
    )
    def test_is_taken(self, best, average, named, step, tmp_path, lenet):
        run = make_run(
            tmp_path / "run", lenet, steps=(1, 2, 3), best=best, average=average
        )
        loaded, report = load(run / named)
        expected = scaled(lenet, step)
        chex.assert_trees_all_equal(
            loaded, scaled(expected, 10) if average else expected
        )
        assert not any("opt_state" in path for path in report.ignored)
        assert ("state/params/c1/kernel" in report.ignored) == average
        assert len(report.loaded) == 10

    def test_checkpoints_elsewhere(self, tmp_path, lenet):
        run = tmp_path / "run"
        elsewhere = str(tmp_path / "elsewhere")
        make_run(run, lenet, checkpoint_dir=elsewhere)
        assert not (run / "checkpoints").exists()
        loaded, _ = load(run)
        chex.assert_trees_all_equal(loaded, scaled(lenet, 2))

    def test_a_damaged_newest_is_passed_over_and_said(self, tmp_path, lenet):
        run = make_run(tmp_path / "run", lenet)
        damage(run / "checkpoints" / "2")
        with pytest.warns(DamagedCheckpointWarning, match="Step 1 is used"):
            loaded, _ = load(run)
        chex.assert_trees_all_equal(loaded, lenet)
        with pytest.raises(ValueError, match=r"2: the checkpoint is damaged"):
            load(run / "checkpoints" / "2")
        damage(run / "checkpoints" / "1")
        with pytest.raises(ValueError, match="every checkpoint is damaged"):
            load(run)

    def test_a_damaged_best_is_not_replaced_by_another(self, tmp_path, lenet):
        run = make_run(tmp_path / "run", lenet, steps=(1, 2, 3), best=2)
        damage(run / "checkpoints" / "2")
        match = r"2: the checkpoint is damaged.*run's best; name .*/3 to take the new"
        with pytest.raises(ValueError, match=match):
            load(run)
        chex.assert_trees_all_equal(
            load(run / "checkpoints" / "3")[0], scaled(lenet, 3)
        )

    def test_a_best_that_is_gone_is_not_replaced_either(self, tmp_path, lenet):
        run = make_run(tmp_path / "run", lenet, best=1)
        os.rename(run / "checkpoints" / "1", tmp_path / "away")
        with pytest.raises(
            ValueError, match=r"step 1, found the steps \[2\].*the run's"
        ):
            load(run)


class TestDirectoriesThatAreNone:
    def test_a_run_that_has_saved_nothing(self, tmp_path, lenet):
        run = make_run(tmp_path / "run", lenet, steps=())
        with pytest.raises(FileNotFoundError, match="checkpoints: expected a check"):
            load(run)

    @pytest.mark.parametrize("content", ["[]", '{"model_type": "resnet"}', "{"])
    def test_another_config(self, content, tmp_path):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"config.json that is no training run's"):
            load(tmp_path)

    def test_another_checkpoint(self, tmp_path, image):
        metadata = {"config": {}, "record": {}}
        with Checkpointer(tmp_path / "other") as checkpointer:
            checkpointer.save(1, {"state": {"params": np.zeros(2)}}, metadata)
        for read in (load, lambda path: predict(path, [image], model="lenet5")):
            with pytest.raises(ValueError, match="a checkpoint of something else"):
                read(tmp_path / "other")

    def test_what_is_no_directory_is_not_described(self, tmp_path):
        assert describe_own({"params": 1}) is None
        assert describe_own("hf-hub:a/b") is None
        assert describe_own(tmp_path / "nowhere") is None


OWN_SIZE = (1.0, "center", "bilinear")
RESIZED = (1.0, "pad", "bicubic")
STREAMED = (0.875, "center", "bilinear")


class TestClassesAndPreprocessing:
    def probabilities(self, variables, image, mean, std):
        network = cnn_jax.create_model("lenet5", num_classes=7)
        pixels = np.asarray(PIL.Image.open(image), np.float32)[None, ..., None] / 255
        x = (pixels - np.float32(mean)) / np.float32(std)
        return np.asarray(jax.nn.softmax(network.apply(variables, x, train=False)))[0]

    def predicted(self, run, image):
        (found,) = predict(run, [image], top=7)
        probabilities = np.zeros(7)
        probabilities[list(found.classes)] = found.probabilities
        return probabilities, found.names

    def test_are_the_runs_own(self, tmp_path, lenet7, image):
        small = scaled(lenet7, 0.3)
        run = make_run(tmp_path / "run", small, steps=[1])
        found, names = self.predicted(run, image)
        assert set(names) == {f"class {number}" for number in range(7)}
        expected = self.probabilities(small, image, 0.1, 0.3)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        named = predict(run, [image], class_names=list("abcdefg"), top=1)
        assert named[0].names[0] == "abcdefg"[expected.argmax()]
        with pytest.raises(ValueError, match="class names: got 2, expected 7"):
            predict(run, [image], class_names=["a", "b"])

    def test_that_a_run_found_out_go_first(self, tmp_path, lenet7, image):
        small = scaled(lenet7, 0.3)
        images = {"class_names": list("abcdefg"), "mean": [0.6], "std": [0.2]}
        run = make_run(
            tmp_path / "run", small, steps=[1], mean=None, metadata={"images": images}
        )
        found, names = self.predicted(run, image)
        assert set(names) == set("abcdefg")
        expected = self.probabilities(small, image, 0.6, 0.2)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        _, metadata = convert(run, tmp_path / "converted", "lenet5")
        assert metadata["class_names"] == list("abcdefg")
        again, names = self.predicted(tmp_path / "converted", image)
        np.testing.assert_array_equal(again, found)
        assert set(names) == set("abcdefg")
        key = jax.random.key(0)
        _, metadata = convert(run, tmp_path / "five", "lenet5", num_classes=5, key=key)
        assert metadata["class_names"] is None

    def test_that_a_run_does_not_say_are_the_models_and_that_is_said(
        self, tmp_path, lenet7, image
    ):
        run = make_run(tmp_path / "run", lenet7, mean=None, std=None)
        with pytest.warns(UserWarning, match="run does not say how it normalised"):
            self.predicted(run, image)

    def test_the_size_of_images_is_the_runs(self, tmp_path, lenet7):
        run = make_run(tmp_path / "run", lenet7, steps=[1], image_size=48)
        assert describe_own(run).preprocessing["input_shape"] == [48, 48, 1]
        other = make_run(
            tmp_path / "other", lenet7, steps=[1], image_size=48, model="mine"
        )
        assert "input_shape" not in describe_own(other).preprocessing

    @pytest.mark.parametrize(
        ("config", "side", "fraction", "expected"),
        [
            ({}, 224, 0.875, (0.875, "center", "bilinear")),
            ({}, 32, 1.0, (1.0, "center", "bilinear")),
            ({"image_size": None, "data_path": "auto"}, 96, 1.0, OWN_SIZE),
            ({"image_size": None, "data_path": "auto"}, 96, None, OWN_SIZE),
            ({"image_size": 32, "data_path": "auto"}, 32, 1.0, RESIZED),
            ({"image_size": 32, "data_path": "auto"}, 32, 0.875, STREAMED),
            ({"image_size": 32, "data_path": "auto"}, 32, None, RESIZED),
            ({"image_size": 32, "data_path": "resident"}, 32, None, RESIZED),
            ({"image_size": 32, "data_path": "stream"}, 32, None, STREAMED),
            ({"image_size": 96, "data_path": "auto"}, 96, None, STREAMED),
            ({"image_size": 96, "data_path": "resident"}, 96, None, RESIZED),
            ({"image_size": 96, "data_path": "auto"}, None, None, STREAMED),
            ({"image_size": None, "data_path": "auto"}, None, None, OWN_SIZE),
            ({}, None, None, (None, None, None)),
        ],
        ids=str,
    )
    def test_a_run_of_an_older_version_saw_images_as_that_did(
        self, tmp_path, lenet7, config, side, fraction, expected
    ):
        images = {} if side is None else {"input_shape": [side, side, 1]}
        if fraction is not None:
            images["crop_fraction"] = fraction
        metadata = {"images": images} if images else {}
        run = make_run(tmp_path, lenet7, steps=[1], metadata=metadata, **config)
        found = describe_own(run).preprocessing
        names = ("crop_fraction", "crop_mode", "interpolation")
        assert tuple(map(found.get, names)) == expected

    def test_what_a_run_says_of_its_crop_is_as_it_says(self, tmp_path, lenet7):
        images = {"input_shape": [32, 32, 1], "crop_fraction": 0.9}
        images |= {"crop_mode": "squash", "interpolation": "lanczos"}
        run = make_run(tmp_path, lenet7, steps=[1], metadata={"images": images})
        found = describe_own(run).preprocessing
        assert found == {"mean": [0.1], "std": [0.3], **images}

    def test_go_through_a_conversion(self, tmp_path, lenet7, capsys, image):
        run, destination = tmp_path / "run", tmp_path / "converted"
        make_run(run, lenet7, best=1)
        arguments = ["convert", run, destination, "--model", "lenet5"]
        assert cli.main([*map(str, arguments)]) == 0
        out, err = capsys.readouterr()
        assert "10 arrays loaded, named as by cnn_jax" in out
        assert "out of its best checkpoint, step 1" in out
        assert err == ""
        loaded, report = load(destination, num_classes=7)
        chex.assert_trees_all_equal(loaded, lenet7)
        assert report.provenance.preprocessing == {"mean": [0.1], "std": [0.3]}
        with warnings.catch_warnings(action="error"):
            assert predict(destination, [image]) == predict(run, [image])
        with Checkpointer(destination, read_only=True) as checkpointer:
            metadata = checkpointer.metadata()
        assert metadata["part"] == "best checkpoint, step 1"
        assert metadata["location"] == str(run)
        assert metadata["num_classes"] == 7


class TestOtherValues:
    """A run and its checkpoint may come from anybody."""

    def refused(self, path):
        with pytest.raises(
            ValueError, match=r"got a (config|checkpoint|damaged)"
        ) as error:
            load(path)
        assert str(path) in str(error.value)

    @pytest.mark.parametrize(
        "content",
        [
            *("3", "null", '"text"', '{"config": 3}', '{"config": []}'),
            *(
                '{"config": {"checkpoint_dir": 3}}',
                '{"config": {"checkpoint_dir": []}}',
            ),
            '{"config": {"checkpoint_dir": "foo://a"}}',
            '{"config": {"checkpoint_dir": "a\\u0000b"}}',
            *("[" * 100_000, '{"config":' * 100_000, "9" * 5000, "\udcff"),
        ],
        ids=lambda content: ascii(content[:50]),
    )
    def test_of_the_config(self, content, tmp_path, lenet):
        run = make_run(tmp_path / "run", lenet, steps=[1])
        (run / "config.json").write_text(content, errors="surrogateescape")
        self.refused(run)

    def test_a_config_that_is_a_pipe(self, tmp_path, lenet):
        run = make_run(tmp_path / "run", lenet, steps=[1])
        (run / "config.json").unlink()
        (run / "config.json").symlink_to("/dev/zero")
        with pytest.raises((ValueError, OSError), match=str(run)):
            load(run)

    @pytest.mark.parametrize(
        "metadata",
        [
            *({"config": value} for value in (3, None, [], "x")),
            *({"record": value} for value in (3, None, [])),
            *({"images": value} for value in (3, [], {"class_names": 3})),
            *({"images": {"class_names": value}} for value in ("abc", [1], {"a": 1})),
            *({"images": {"mean": value}} for value in (3, [None], ["x"], [1e300])),
            *({"images": {"input_shape": value}} for value in ([1], [1, 1, 1e9], "x")),
            *({"model": value} for value in (3, None, [], {}, {"name": 3})),
            *({"model": {"name": "lenet5", "fields": value}} for value in (3, [], "x")),
            {"model": {"name": "lenet5", "changed": 3}},
            {"config": {"model": "lenet5", "dtype": "complex64"}},
            {"config": {"model": "lenet5", "dtype": []}},
        ],
        ids=str,
    )
    def test_of_the_metadata(self, metadata, tmp_path, lenet):
        run = make_run(tmp_path / "run", lenet, steps=[1], metadata=metadata)
        self.refused(run)

    def test_paths_that_are_deep(self, tmp_path, lenet):
        deep = np.zeros(3, np.float32)
        for _ in range(40):
            deep = {"a": deep}
        run = make_run(
            tmp_path / "run", {"params": {**lenet["params"], "deep": deep}}, steps=[1]
        )
        self.refused(run)
