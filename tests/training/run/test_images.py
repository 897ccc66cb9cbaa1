"""The preparation of images follows from the images, not from their path."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from helpers.photographs import write_photographs
from PIL import Image

from cnn_jax import data, sharding
from cnn_jax.data.dataset import Dataset
from cnn_jax.data.reading import image_of
from cnn_jax.models import model_info
from cnn_jax.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from cnn_jax.training import TrainConfig
from cnn_jax.training.run.feeds import make_evaluation, make_feed
from cnn_jax.training.run.fit import fit
from cnn_jax.training.run.images import (
    ImageFormat,
    image_format,
    image_shape,
    recorded_format,
)

CONFIG = TrainConfig(model="resnet20", batch_size=8)


def write_images(root, sizes, channels=3):
    """Writes one image of each size (height, width) into two classes."""
    random = np.random.default_rng(0)
    for number, size in enumerate(sizes):
        directory = root / ("a", "b")[number % 2]
        directory.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(20, 200, (*size, channels)).astype(np.uint8)
        Image.fromarray(pixels).save(directory / f"{number:02}.png")
    return f"folder:{root}"


def paths_of(name, config):
    """Returns a split in memory and the same to stream."""
    return [
        data.open_split(name, "train", image_size=config.image_size, path=path)
        for path in ("resident", "stream")
    ]


DATA = {
    # Sizes of the images, the input's size, and what follows from them.
    "of the input's size": ([(32, 32)] * 9, 32, (1.0, "center", "bilinear", True)),
    "large, of its size": ([(80, 80)] * 9, 80, (1.0, "center", "bilinear", True)),
    "a little smaller": ([(28, 28)] * 9, 32, (1.0, "pad", "bicubic", True)),
    "larger, to be small": ([(48, 40)] * 9, 16, (1.0, "pad", "bicubic", True)),
    "larger photographs": ([(120, 100)] * 9, 80, (0.875, "center", "bilinear", True)),
    "of several sizes": (
        [(90, 100), (120, 100), (70, 200)] * 3,
        80,
        (0.875, "center", "bilinear", False),
    ),
    "of several, to be small": (
        [(90, 100), (120, 100), (70, 200)] * 3,
        32,
        (1.0, "center", "bilinear", False),
    ),
}


@pytest.mark.parametrize("name", DATA)
def test_both_paths_train_on_the_same_images(name, tmp_path):
    sizes, side, _ = DATA[name]
    config = dataclasses.replace(CONFIG, image_size=side)
    resident, stream = paths_of(write_images(tmp_path, sizes), config)
    images = image_format(config, stream)
    transform = data.train_transform("none", images.preprocessing)
    expected = [
        np.asarray(transform(image_of(stream[index], 3), None))
        for index in range(len(stream))
    ]
    np.testing.assert_array_equal(images.trained(resident).images, expected)


@pytest.mark.parametrize("name", DATA)
def test_both_paths_prepare_the_same_images_alike(name, tmp_path):
    sizes, side, (fraction, mode, interpolation, has_own) = DATA[name]
    config = dataclasses.replace(CONFIG, image_size=side)
    splits = paths_of(write_images(tmp_path, sizes), config)
    formats = [image_format(config, split) for split in splits]
    assert formats[0] == formats[1]
    found = formats[0].preprocessing
    assert (found.crop_fraction, found.crop_mode) == (fraction, mode)
    assert (found.size, found.interpolation) == (side, interpolation)
    if has_own:
        resident = splits[0].channel_statistics
        np.testing.assert_array_equal((found.mean, found.std), resident)
    else:
        assert found.mean == model_info("resnet20").mean
    prepared = [pixels(split, config, formats[0]) for split in splits]
    np.testing.assert_array_equal(*prepared)
    expected = [
        np.asarray(data.eval_transform(found)(Image.open(path)))
        for path in sorted(tmp_path.rglob("*.png"))
    ]
    np.testing.assert_array_equal(prepared[0], expected)
    # A part that is held out of what was read into memory, too.
    (_, held), chosen = splits[0].split_off(0.25), [0, 1, 5]
    part = splits[0].take(chosen)
    np.testing.assert_array_equal(pixels(part, config, formats[0]), prepared[0][chosen])
    assert len(pixels(held, config, formats[0])) == len(held)


def pixels(split, config, images):
    """Returns a split's images as training evaluates them, before normalisation."""
    mesh = sharding.make_mesh(jax.devices()[:1])
    batches = list(make_evaluation(split, config, mesh, images).batches())
    images, masks = (
        np.concatenate([np.asarray(batch[name]) for batch in batches])
        for name in ("image", "mask")
    )
    return images[masks > 0]


WEIGHTS = {
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
    "crop_fraction": 0.95,
    "crop_mode": "squash",
    "interpolation": "lanczos",
    "input_shape": [300, 300, 3],
}


class TestEachField:
    """Configuration, else weights, else data, else the model, else ImageNet's."""

    @pytest.fixture
    def photographs(self, tmp_path):
        return data.open_source(
            write_images(tmp_path, DATA["of several sizes"][0]), "train"
        )

    def test_is_the_configurations(self, photographs):
        given = {
            "mean": (0.3,) * 3,
            "std": (0.2,) * 3,
            "crop_fraction": 0.8,
            "crop_mode": "border",
            "interpolation": "nearest",
        }
        config = dataclasses.replace(CONFIG, image_size=80, **given)
        config.validate()
        images = image_format(config, photographs, weights=WEIGHTS)
        assert images.preprocessing == Preprocessing(80, **given)

    def test_is_the_weights(self, photographs):
        config = dataclasses.replace(CONFIG, image_size=80, pretrained="somewhere")
        images = image_format(config, photographs, weights=WEIGHTS)
        assert images.preprocessing == Preprocessing(
            80, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.95, "squash", "lanczos"
        )
        small = dataclasses.replace(config, image_size=64)
        found = image_format(small, photographs, weights=WEIGHTS)
        assert found.preprocessing.crop_fraction == 1.0

    def test_is_the_weights_for_images_of_the_inputs_size(self, tmp_path):
        config = dataclasses.replace(CONFIG, image_size=80, pretrained="somewhere")
        for split in paths_of(write_images(tmp_path, [(80, 80)] * 4), config):
            images = image_format(config, split, weights=WEIGHTS)
            assert images.preprocessing.crop_fraction == 0.95

    def test_is_the_models(self, photographs, monkeypatch):
        own = Preprocessing(299, (0.5,) * 3, (0.5,) * 3, 0.9, interpolation="bicubic")
        monkeypatch.setattr(
            "cnn_jax.training.run.images._model_preprocessing", lambda name: own
        )
        config = dataclasses.replace(CONFIG, image_size=80)
        found = image_format(config, photographs).preprocessing
        assert found == dataclasses.replace(own, size=80)

    def test_is_imagenets_for_a_model_of_ones_own(self, photographs):
        config = dataclasses.replace(CONFIG, image_size=80, model="mine")
        images = image_format(config, photographs)
        assert images.preprocessing == Preprocessing(80)
        assert (images.mean, images.std) == (IMAGENET_MEAN, IMAGENET_STD)

    def test_weights_that_do_not_say_it_get_the_models_normalisation(self, tmp_path):
        config = dataclasses.replace(CONFIG, image_size=32, pretrained="somewhere")
        for split in paths_of(write_images(tmp_path, [(32, 32)] * 4), config):
            assert image_format(config, split).mean == model_info("resnet20").mean
            own = image_format(CONFIG, split) if isinstance(split, Dataset) else None
            assert own is None or own.mean != model_info("resnet20").mean

    def test_large_sets_have_the_models_statistics(self, tmp_path, monkeypatch):
        name = write_images(tmp_path, [(32, 32)] * 4)
        config = dataclasses.replace(CONFIG, image_size=32)
        most = 4 * 32 * 32 * 3 - 1
        monkeypatch.setattr("cnn_jax.data.prepared.RESIDENT_BYTES", most)
        for split in paths_of(name, config):
            assert image_format(config, split).mean == model_info("resnet20").mean

    def test_unreadable_images_do_not_count(self, tmp_path):
        name = write_images(tmp_path, [(32, 32)] * 6)
        config = dataclasses.replace(CONFIG, image_size=32)
        expected = image_format(config, data.open_source(name, "train"))
        (tmp_path / "a" / "99.png").write_bytes(b"no image")
        stream = data.open_source(name, "train")
        assert len(stream) == 7
        assert image_format(config, stream) == expected


def noise(shape, dtype=np.uint8):
    images = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    labels = np.arange(len(images)) % 2
    return Dataset("noise", "train", images, labels, ("a", "b"))


def test_arrays_are_cropped_if_that_is_asked_for():
    images = noise((5, 16, 16, 3))
    config = dataclasses.replace(CONFIG, crop_fraction=0.5)
    how = image_format(config, images)
    expected = np.stack(
        [
            np.asarray(data.eval_transform(how.preprocessing)(Image.fromarray(each)))
            for each in images.images
        ]
    )
    np.testing.assert_array_equal(pixels(images, config, how), expected)
    once = data.evaluated(images, how.preprocessing)
    np.testing.assert_array_equal(pixels(once, config, how), expected)
    whole = image_format(CONFIG, images)
    np.testing.assert_array_equal(pixels(images, CONFIG, whole), images.images)


@pytest.mark.parametrize("mode", ["center", "squash", "border", "pad"])
def test_each_of_many_channels_is_resized_alike(mode):
    images = noise((3, 20, 16, 5))
    how = Preprocessing(
        12, (0.5,) * 5, (0.2,) * 5, crop_mode=mode, crop_fraction=0.9, channels=5
    )
    grey = dataclasses.replace(how, mean=(0.5,), std=(0.2,), channels=1)
    found = data.evaluated(images, how).images
    for channel in range(5):
        for seen, each in zip(found, images.images, strict=True):
            image = Image.fromarray(each[..., channel])
            expected = np.asarray(data.eval_transform(grey)(image))
            np.testing.assert_array_equal(seen[..., channel], expected)


@pytest.mark.parametrize(
    ("images", "fields", "message"),
    [
        (noise((4, 8, 8, 3), np.float32), {"crop_fraction": 0.5}, "floating-point"),
        (noise((4, 8, 9, 3)), {"crop_mode": "squash"}, "images of 8 x 9 in memory"),
    ],
    ids=["floating-point", "not square"],
)
def test_a_crop_of_what_is_not_cropped_is_refused(images, fields, message):
    name, value = next(iter(fields.items()))
    with pytest.raises(ValueError, match=f"{name}: got {value!r} for {message}"):
        image_format(dataclasses.replace(CONFIG, **fields), images)


@pytest.mark.parametrize(
    "images",
    [
        noise((4, 8, 9, 3)),
        noise((4, 8, 8, 5)),
        noise((4, 8, 8, 100)),
        noise((4, 8, 9, 2), np.float32),
    ],
    ids=["not square", "five channels", "a hundred", "floating-point"],
)
def test_arrays_of_any_shape_stay_as_they_are(images):
    how = image_format(CONFIG, images)
    assert how.shape == images.image_shape
    np.testing.assert_array_equal(pixels(images, CONFIG, how), images.images)


def test_training_crops_have_the_recipes_filter(tmp_path):
    name = write_images(tmp_path, DATA["of several sizes"][0])
    stream = data.open_source(name, "train")
    mesh = sharding.make_mesh(jax.devices()[:1])
    batches = []
    for fields in ({}, {"interpolation": "bilinear"}, {"interpolation": "nearest"}):
        config = dataclasses.replace(
            CONFIG, image_size=24, augmentation="inception", **fields
        )
        feed = make_feed(stream, config, mesh, image_format(config, stream))
        batches.append(np.asarray(feed.inputs(0)["image"]))
        feed.close()
    np.testing.assert_array_equal(batches[0], batches[1])
    assert (batches[0] != batches[2]).any()


RECORDED = {
    "class_names": ["a", "b"],
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
    "input_shape": [32, 32, 3],
}


class TestAResumedRun:
    """Goes on with the images that it recorded, whatever this version would choose."""

    def resumed(self, split, recorded, config=CONFIG):
        images = image_format(config, split)
        return images, recorded_format(images, recorded, config, split)

    def test_is_as_it_was_recorded(self):
        now, found = self.resumed(noise((4, 32, 32, 3)), {})
        assert found == now
        other = ImageFormat.of(
            Preprocessing(32, (0.1,) * 3, (0.2,) * 3, 0.5, "squash", "lanczos")
        )
        _, found = self.resumed(noise((4, 32, 32, 3)), other.to_dict())
        assert found == other

    def test_knows_what_older_versions_left_out(self, tmp_path):
        config = dataclasses.replace(CONFIG, image_size=32)
        name = write_images(tmp_path, [(28, 28)] * 4)
        resident, stream = paths_of(name, config)
        said = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
        for split, expected in (
            (stream, Preprocessing(32, crop_fraction=0.875, **said)),
            (resident, dataclasses.replace(data.stored(32, 3), **said)),
        ):
            _, found = self.resumed(split, RECORDED, config)
            assert found.preprocessing == expected
        recorded = {**RECORDED, "crop_fraction": 1.0}
        _, found = self.resumed(stream, recorded, config)
        assert found.preprocessing == Preprocessing(32, crop_fraction=1.0, **said)

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("recorded", [{}, {"class_names": ["a", "b"]}], ids=str)
    def test_knows_what_older_versions_did_and_did_not_record(
        self, recorded, channels, tmp_path
    ):
        config = dataclasses.replace(CONFIG, image_size=32)
        name = write_images(tmp_path, [(28, 28)] * 4)
        resident, stream = (
            data.with_channels(split, channels) for split in paths_of(name, config)
        )
        mean, std = resident.channel_statistics
        of_set = dataclasses.replace(data.stored(32, channels), mean=mean, std=std)
        of_stream = Preprocessing(
            32,
            IMAGENET_MEAN[:channels],
            IMAGENET_STD[:channels],
            crop_fraction=0.875,
            channels=channels,
        )
        said = {"mean": (0.2,) * channels, "std": (0.7,) * channels}
        given = dataclasses.replace(config, **said)
        for split, expected in ((resident, of_set), (stream, of_stream)):
            _, found = self.resumed(split, recorded, config)
            assert found.preprocessing == expected
            _, found = self.resumed(split, recorded, given)
            assert found.preprocessing == dataclasses.replace(expected, **said)

    def test_of_floating_point_images_has_no_mean(self):
        recorded = {**RECORDED, "mean": None, "std": None}
        split = noise((4, 32, 32, 3), np.float32)
        now, found = self.resumed(split, recorded)
        assert found == now

    @pytest.mark.parametrize(
        "recorded", [3, {"mean": "x"}, {"crop_mode": "x"}], ids=str
    )
    def test_is_refused_if_no_run_wrote_that(self, recorded):
        with pytest.raises((AttributeError, TypeError, ValueError)):
            self.resumed(noise((4, 32, 32, 3)), recorded)


@pytest.mark.slow
def test_a_run_that_is_resumed_says_the_same(tiny_net, tmp_path):
    splits = noise((8, 16, 16, 3)), noise((5, 16, 16, 3))
    weights = {"mean": [0.1] * 3, "std": [0.4] * 3, "interpolation": "lanczos"}
    config = TrainConfig(epochs=1, batch_size=8, run_dir=str(tmp_path / "run"))
    run = functools.partial(
        fit, tiny_net().clone(num_classes=2), splits[0], test=splits[1], progress=False
    )
    first = run(config=config, weights_preprocessing=weights)
    assert {**first.images, **weights} == first.images
    again = run(config=dataclasses.replace(config, resume=True))
    assert (again.images, again.test) == (first.images, first.test)
    for name in ("config.json", "result.json"):
        found = json.loads((tmp_path / "run" / name).read_text())["images"]
        assert {**found, **first.images} == found


def test_the_shape_of_a_stream_must_be_said(tmp_path):
    stream = data.open_source(write_images(tmp_path, [(32, 32)] * 2), "train")
    with pytest.raises(ValueError, match="image_size: got None"):
        image_shape(CONFIG, stream)


@pytest.mark.slow
def test_photographs_are_predicted_as_the_run_evaluated_them(tmp_path):
    from cnn_jax import experiment
    from cnn_jax.prediction import predict

    root = tmp_path / "data"
    for seed, (part, count) in enumerate((("train", 16), ("test", 6))):
        write_photographs(root / part, count, seed=seed, side=90)
    results = {}
    for path in ("resident", "stream"):
        config = TrainConfig(
            model="lenet5",
            dataset=f"folder:{root}",
            data_path=path,
            image_size=72,
            batch_size=8,
            epochs=2,
            learning_rate=0.02,
            run_dir=str(tmp_path / path),
        )
        result = experiment.run(config)
        files = sorted((root / "test").rglob("*.*"))
        names = sorted({file.parent.name for file in files})
        found = predict(tmp_path / path, files, top=len(names))
        likelihoods = [
            dict(zip(each.names, each.probabilities, strict=True))[file.parent.name]
            for each, file in zip(found, files, strict=True)
        ]
        correct = [
            each.names[0] == file.parent.name
            for each, file in zip(found, files, strict=True)
        ]
        assert result.test["accuracy"] == pytest.approx(np.mean(correct))
        loss = -np.mean(np.log(likelihoods))
        assert result.test["loss"] == pytest.approx(loss, abs=1e-5)
        results[path] = (config, result)
    # The weights of one run, evaluated on either path.
    config, result = results["resident"]
    train, test = paths_of_test(config)
    images = image_format(config, train)
    assert images.preprocessing.crop_fraction == 0.875
    np.testing.assert_array_equal(
        pixels(test[0], config, images), pixels(test[1], config, images)
    )


def paths_of_test(config):
    train = data.open_source(config.dataset, "train")
    return train, [
        data.open_split(config.dataset, "test", image_size=config.image_size, path=path)
        for path in ("resident", "stream")
    ]
