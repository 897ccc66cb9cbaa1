"""Files of a probe in its directory."""

import json

import jax
import jax.numpy as jnp
import numpy as np

import cnn_jax
from cnn_jax import probe_run
from cnn_jax.data import load_dataset
from cnn_jax.layers import abstract_variables
from cnn_jax.preprocessing import Preprocessing
from cnn_jax.pretrained.files import describe_own
from cnn_jax.training import TrainConfig
from cnn_jax.transfer.policies import ProbeResult
from cnn_jax.transfer.probe import FitReport
from cnn_jax.trees import named_leaves


def test_a_probe_records_its_images_under_the_home(tmp_path, monkeypatch):
    images = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    shapes = named_leaves(abstract_variables(cnn_jax.create_model("lenet5"), images))
    leaves = {path: np.zeros(leaf.shape, "f4") for path, leaf in shapes.items()}
    np.savez(tmp_path / "lenet5.npz", **leaves)
    head = {name: leaves[f"params/head/{name}"] for name in ("kernel", "bias")}
    scores = {"accuracy": 0.5, "loss": 1.0, "top5_accuracy": 0.75, "num_examples": 32}
    found = ProbeResult(
        head,
        FitReport(1.0, 0.0, 3, converged=True),
        train=scores,
        test=scores,
        feature_seconds=1.0,
        fit_seconds=1.0,
        num_cached=0,
    )
    monkeypatch.setattr(probe_run, "feature_extraction", lambda *_, **__: found)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = TrainConfig(
        model="lenet5",
        image_size=32,
        mean=(0.25,),
        std=(0.5,),
        batch_size=16,
        pretrained=str(tmp_path / "lenet5.npz"),
        run_dir="~/probe",
    )
    splits = {
        name: load_dataset("digits", name, image_size=32).take(np.arange(32))
        for name in ("train", "test")
    }
    probe_run.run(config, splits)
    directory = tmp_path / "probe"
    recorded = json.loads((directory / "config.json").read_text())["images"]
    assert recorded == {**describe_own(directory).preprocessing}
    fields = {name: recorded[name] for name in recorded if name != "input_shape"}
    expected = Preprocessing(
        32, (0.25,), (0.5,), 1.0, recorded["crop_mode"], channels=1
    )
    assert Preprocessing.from_dict(fields) == expected
    assert recorded["input_shape"] == [32, 32, 1]
    # What the page shows of a training run's test split it shows of a probe's.
    scores = json.loads((directory / "scores.json").read_text())
    assert (scores["num_examples"], scores["class_names"]) == (32, list("0123456789"))
    page = (directory / "report.html").read_text("utf-8")
    for heading in ("Calibration and classes", "Confusions", "Surest mistakes"):
        assert f"{heading} on the test split" in page
    assert "3 iterations, converged" in page
