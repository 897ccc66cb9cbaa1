"""Training from a stream: end to end, resumed exactly, and what it refuses."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from helpers.kills import KilledError
from helpers.quick import nightly_except
from helpers.run_files import without_clock
from PIL import Image

from cnn_jax import data, sharding
from cnn_jax.checkpoint import ResumeRefusedError
from cnn_jax.preprocessing import Preprocessing
from cnn_jax.training import TrainConfig
from cnn_jax.training.run.feeds import StreamEvaluation, StreamFeed, make_feed
from cnn_jax.training.run.fit import fit
from cnn_jax.training.run.images import ImageFormat

ROOT = pathlib.Path(__file__).parents[3]
REAL = pathlib.Path(os.environ.get("CNN_JAX_DATA") or ROOT / ".." / "shared") / "tfds"


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """70 training and 11 test images of two classes, light and dark, of two sizes."""
    root = tmp_path_factory.mktemp("folder")
    random = np.random.default_rng(0)
    for split, count in (("train", 70), ("test", 11)):
        for number in range(count):
            label = number % 2
            directory = root / split / ("dark", "light")[label]
            directory.mkdir(parents=True, exist_ok=True)
            size = (10, 14) if number % 3 else (16, 12)
            pixels = random.integers(0, 100, (*size, 3)) + 120 * label
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(directory / f"{number:03}.png")
    return root


@pytest.fixture
def config():
    """Three epochs of four steps of 16 images, cut to 8x8."""
    return TrainConfig(
        model="tiny",
        image_size=8,
        augmentation="randaugment",
        batch_size=16,
        epochs=3,
        learning_rate=0.1,
        mixup_alpha=0.2,
        cutmix_alpha=1.0,
        erasing_probability=0.3,
        log_every_steps=1,
    )


def splits(folder):
    return [data.open_source(f"folder:{folder}", name) for name in ("train", "test")]


def train(tiny_net, config, folder, **options):
    return fit(
        tiny_net(num_classes=2),
        splits(folder)[0],
        test=splits(folder)[1],
        config=config,
        progress=False,
        **options,
    )


@pytest.mark.slow
def test_a_run_on_a_folder_learns_and_counts_every_test_image(tiny_net, config, folder):
    config = dataclasses.replace(
        config, epochs=5, augmentation="inception", mixup_alpha=0, cutmix_alpha=0
    )
    result = train(tiny_net, config, folder)
    assert result.test["accuracy"] > 0.9
    assert result.test["num_examples"] == 11
    assert 0 <= result.waiting_share <= 1
    assert result.bad_images == []


@pytest.fixture(scope="module")
def undisturbed(tiny_net, folder):
    """The digest and the history of a run that was left alone."""
    config = TrainConfig(**CONFIG)
    result = train(tiny_net, config, folder)
    return result.state_digest, without_clock(result.history)


CONFIG = {
    "model": "tiny",
    "image_size": 8,
    "augmentation": "inception",
    "batch_size": 16,
    "epochs": 3,
    "learning_rate": 0.1,
    "mixup_alpha": 0.2,
    "log_every_steps": 1,
}


# The last step of the first epoch, the first and a middle one of the second.
@pytest.mark.parametrize("stop", nightly_except([5], [4, 5, 6]))
def test_a_resumed_stream_ends_bitwise_equal(
    tiny_net, folder, tmp_path, undisturbed, stop
):
    config = TrainConfig(
        **CONFIG, run_dir=str(tmp_path / "run"), checkpoint_every_steps=1
    )

    def kill(record, state):
        if record["event"] == "step" and record["step"] == stop + 1:
            raise KilledError

    with pytest.raises(KilledError):
        train(tiny_net, config, folder, callbacks=[kill])
    resumed = train(tiny_net, dataclasses.replace(config, resume=True), folder)
    assert (resumed.state_digest, without_clock(resumed.history)) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", nightly_except([2], [1, 2]))
def test_workers_do_not_change_a_resumed_run(
    tiny_net, folder, tmp_path, undisturbed, num_workers
):
    config = TrainConfig(
        **CONFIG,
        run_dir=str(tmp_path / "run"),
        checkpoint_every_steps=1,
        num_workers=num_workers,
    )

    def kill(record, state):
        if record["step"] == 6:
            raise KilledError

    with pytest.raises(KilledError):
        train(tiny_net, config, folder, callbacks=[kill])
    config = dataclasses.replace(config, resume=True, num_workers=3 - num_workers)
    resumed = train(tiny_net, config, folder)
    assert (resumed.state_digest, without_clock(resumed.history)) == undisturbed


@pytest.mark.slow
def test_a_dataset_whose_content_changed_is_refused(tiny_net, folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "data")
    config = TrainConfig(**{**CONFIG, "epochs": 1}, run_dir=str(tmp_path / "run"))
    train(tiny_net, config, root)
    path = next((root / "train").rglob("*.png"))
    Image.fromarray(np.full((10, 14, 3), 7, np.uint8)).save(path)
    with pytest.raises(ResumeRefusedError, match="another dataset"):
        train(tiny_net, dataclasses.replace(config, resume=True), root)


def test_another_batch_size_is_refused(tiny_net, folder, tmp_path):
    config = TrainConfig(**{**CONFIG, "epochs": 1}, run_dir=str(tmp_path / "run"))
    train(tiny_net, config, folder)
    config = dataclasses.replace(config, resume=True, batch_size=8)
    with pytest.raises(ResumeRefusedError, match="batch_size: saved 16, now 8"):
        train(tiny_net, config, folder)


@pytest.mark.slow
def test_bad_images_within_the_budget_are_reported(tiny_net, folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "data")
    for name in ("train/dark/000.png", "test/light/001.png"):
        (root / name).write_bytes(b"torn")
    config = TrainConfig(**{**CONFIG, "epochs": 2})
    with pytest.raises(data.ImageError, match="expected no more than 0"):
        train(tiny_net, config, root)
    result = train(tiny_net, dataclasses.replace(config, max_bad_images=1), root)
    assert result.test["num_examples"] == 10
    found = {image["origin"] for image in result.bad_images}
    assert found == {str(root / "train/dark/000.png"), str(root / "test/light/001.png")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": None}, "image_size: got None for 'folder:"),
        ({"augmentation": "randaugmnt"}, "Did you mean 'randaugment'"),
        ({"batch_size": 72}, "batch_size: got 72, expected 1 to 70"),
    ],
)
def test_what_a_stream_needs_is_said_before_anything_is_compiled(
    tiny_net, config, folder, changes, message
):
    with pytest.raises(ValueError, match=message):
        train(tiny_net, dataclasses.replace(config, **changes), folder)


@pytest.mark.slow
def test_a_run_says_which_part_of_an_image_evaluation_sees(
    tiny_net, config, digits, folder, tmp_path
):
    """As `predict` then cuts it out."""
    config = dataclasses.replace(
        config, epochs=1, mixup_alpha=0, cutmix_alpha=0, erasing_probability=0
    )
    streamed = dataclasses.replace(
        config, image_size=72, run_dir=str(tmp_path / "streamed")
    )
    train(tiny_net, streamed, folder)
    whole = dataclasses.replace(
        config, augmentation="none", run_dir=str(tmp_path / "whole")
    )
    fit(tiny_net(), digits[0], test=digits[1], config=whole, progress=False)
    for run, expected in ((streamed, 0.875), (whole, 1.0)):
        description = json.loads(
            (pathlib.Path(run.run_dir) / "config.json").read_text()
        )
        assert description["images"]["crop_fraction"] == expected


def test_a_resident_set_has_no_host_transforms(tiny_net, config, digits):
    with pytest.raises(ValueError, match="augmentation: got 'randaugment' for"):
        fit(tiny_net(), digits[0], test=digits[1], config=config, progress=False)


@pytest.mark.slow
def test_validation_is_held_out_of_a_stream(tiny_net, config, folder):
    config = dataclasses.replace(config, validation_fraction=0.2, epochs=1)
    (record,) = train(tiny_net, config, folder).history
    assert record["step"] == 3  # of 56 images
    assert 0 <= record["validation_accuracy"] <= 1


def test_the_batch_is_split_over_the_devices(config, folder):
    mesh = sharding.make_mesh()
    images = ImageFormat.of(Preprocessing(config.image_size))
    feed = make_feed(splits(folder)[0], config, mesh, images)
    assert isinstance(feed, StreamFeed)
    batch = feed.inputs(2)
    feed.close()
    for name, wanted in feed.specification.items():
        assert (batch[name].shape, batch[name].dtype) == (wanted.shape, wanted.dtype)
        assert batch[name].sharding == wanted.sharding
    assert feed.waited_seconds > 0
    evaluation = StreamEvaluation(splits(folder)[1], config, mesh, images)
    (batch,) = evaluation.batches()
    assert {name: array.shape for name, array in batch.items()} == {
        name: wanted.shape for name, wanted in evaluation.specification.items()
    }


WITHOUT_TENSORFLOW = """
    import pathlib
    import sys

    import tensorflow_datasets as tfds
    from flax import linen as nn
    from cnn_jax import data
    from cnn_jax.training import TrainConfig
    from cnn_jax.training.run.fit import fit

    class Net(nn.Module):
        num_classes: int

        @nn.compact
        def __call__(self, x, *, train=False):
            return nn.Dense(self.num_classes)(x.mean((1, 2)))

    real, folder, scratch = map(pathlib.Path, sys.argv[1:])

    def train(name, splits, **options):
        config = TrainConfig(batch_size=8, epochs=1, dataset=name, **options)
        options = {"data_dir": config.data_dir, "path": config.data_path}
        train, test = (data.open_split(name, split, **options) for split in splits)
        result = fit(
            Net(len(train.class_names)),
            train,
            test=test,
            config=config,
            progress=False,
        )
        print(name, config.data_path, result.test["num_examples"])

    parts = ("train[:40]", "test[:13]")
    for name in ("cifar10", "mnist"):
        if (real / name).is_dir():
            train(name, parts, data_dir=str(real))
            train(name, parts, data_dir=str(real), data_path="stream", image_size=28)
    train(f"folder:{folder}", ("train", "test"), image_size=8)
    with tfds.testing.mock_data(num_examples=20, data_dir=str(scratch)):
        train(
            "imagenet2012", ("train", "validation"), image_size=32,
            data_dir=str(scratch), augmentation="inception",
        )
    assert not [name for name in sys.modules if name.split(".")[0] == "tensorflow"]
"""


@pytest.mark.slow
def test_every_kind_of_source_trains_without_tensorflow(folder, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-c", textwrap.dedent(WITHOUT_TENSORFLOW)),
            *(str(REAL), str(folder), str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert f"folder:{folder} auto 11" in lines
    assert "imagenet2012 auto 20" in lines
    for name in ("cifar10", "mnist"):
        if (REAL / name).is_dir():
            assert {f"{name} auto 13", f"{name} stream 13"} <= set(lines)
