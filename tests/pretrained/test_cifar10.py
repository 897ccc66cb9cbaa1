"""Weights that others trained, and the accuracy that they are known to have."""

import os
import pathlib

import jax
import numpy as np
import pytest

import cnn_jax
from cnn_jax import sharding
from cnn_jax.data import load_dataset, normalize, open_split
from cnn_jax.pretrained.channels import convert_preprocessing
from cnn_jax.training import TrainConfig
from cnn_jax.training.run.feeds import make_evaluation
from cnn_jax.training.run.images import image_format

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(os.environ.get("CNN_JAX_DATA") or ROOT / ".." / "shared")
WEIGHTS = SHARED / "weights" / "cifar10_resnet20.safetensors"


def require_real():
    if not WEIGHTS.is_file() or not (SHARED / "tfds" / "cifar10").is_dir():
        pytest.skip(f"no {WEIGHTS} or no tfds/cifar10 beside it; set CNN_JAX_DATA")


def read_test_split():
    require_real()
    return load_dataset("cifar10", "test", data_dir=SHARED / "tfds", progress=False)


def num_right(variables, images, labels, mean, std):
    """Returns how many images a ResNet-20 classifies right."""
    model = cnn_jax.create_model("resnet20")

    @jax.jit
    def count(images, labels):
        logits = model.apply(variables, normalize(images, mean, std), train=False)
        return (logits.argmax(-1) == labels).sum()

    batches = zip(np.split(images, 10), np.split(labels, 10), strict=True)
    return sum(int(count(*batch)) for batch in batches)


@pytest.mark.nightly  # `evaluate` is held to the same number in every change
def test_resnet20_classifies_as_many_of_cifar10_as_its_authors_say():
    test = read_test_split()
    variables, report = cnn_jax.load_pretrained("resnet20", WEIGHTS)
    assert len(report.loaded) == 97
    assert not report.cast
    info = cnn_jax.model_info("resnet50")  # ImageNet's mean and deviation
    found = num_right(variables, test.images, test.labels, info.mean, info.std)
    assert found == 8103


@pytest.mark.nightly
def test_summed_filters_classify_grey_images_as_well_as_three_copies_of_them():
    test, info = read_test_split(), cnn_jax.model_info("resnet50")
    weights = np.asarray([0.299, 0.587, 0.114])
    grey = np.round(test.images @ weights).astype(np.uint8)[..., None]
    variables, _ = cnn_jax.load_pretrained("resnet20", WEIGHTS)
    copies = grey.repeat(3, axis=-1)
    copied = num_right(variables, copies, test.labels, info.mean, info.std)
    variables, _ = cnn_jax.load_pretrained("resnet20", WEIGHTS, in_channels=1)
    said = convert_preprocessing({"mean": info.mean, "std": info.std}, 1)
    summed = num_right(variables, grey, test.labels, said["mean"], said["std"])
    assert copied == pytest.approx(7460, abs=2)
    assert summed == pytest.approx(7448, abs=2)


@pytest.mark.nightly
def test_a_stream_is_evaluated_as_the_set_in_memory():
    require_real()
    model = cnn_jax.create_model("resnet20")
    variables, report = cnn_jax.load_pretrained(model, WEIGHTS)
    found = []
    for path in ("resident", "stream"):
        config = TrainConfig(
            model="resnet20", image_size=32, pretrained=str(WEIGHTS), batch_size=200
        )
        split = open_split(
            "cifar10", "test[:1000]", data_dir=SHARED / "tfds", path=path
        )
        images = image_format(config, split, weights=report.provenance.preprocessing)
        feed = make_evaluation(split, config, sharding.make_mesh(), images)
        found.append(
            [
                model.apply(variables, images.prepare(batch["image"]), train=False)
                for batch in feed.batches()
            ]
        )
    np.testing.assert_allclose(*map(np.concatenate, found), atol=1e-5)
    labels = load_dataset(
        "cifar10", "test[:1000]", data_dir=SHARED / "tfds", progress=False
    ).labels
    assert (np.concatenate(found[1]).argmax(-1) == labels).sum() == 830
