"""`cnn-jax export`: what it prints, and errors in one sentence."""

import json
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

import cnn_jax
from cnn_jax import trees
from cnn_jax.cli import main


@pytest.fixture
def weights(tmp_path):
    model = cnn_jax.create_model("lenet5")
    images = np.zeros((1, 32, 32, 1), np.float32)
    variables = model.init(jax.random.key(0), images, train=False)
    path = tmp_path / "lenet5.safetensors"
    arrays = {
        name: np.asarray(leaf) for name, leaf in trees.named_leaves(variables).items()
    }
    safetensors.numpy.save_file(arrays, path)
    return path


def test_errors_are_one_sentence(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    (tmp_path / "notes").write_text("mine")
    cases = {
        (str(weights), str(tmp_path / "x"), "--format", "torch"): "invalid choice",
        (str(weights), str(tmp_path / "x")): "--format",
        (str(weights), str(tmp_path / "x"), "--format", "onnx"): "cnn_jax[export]",
        (str(weights), str(tmp_path / "notes"), "--format", "onnx"): "did not write",
    }
    for arguments, message in cases.items():
        assert main(["export", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert message in captured.err
        assert captured.err.count("\n") == 1
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.parity
@pytest.mark.parametrize("format", ["stablehlo", "onnx"])
def test_prints_what_was_written(format, weights, tmp_path, capsys):
    pytest.importorskip({"stablehlo": "flatbuffers", "onnx": "onnx"}[format])
    place = tmp_path / "out"
    arguments = ["export", str(weights), str(place), "--model", "lenet5"]
    assert main([*arguments, "--format", format]) == 0
    printed = capsys.readouterr().out
    assert "lenet5, 10 classes" in printed
    assert "uint8 (batch, height, width, channels)" in printed
    assert main([*arguments, "--format", format, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"] == place.stat().st_size
    assert found["preprocessing"]["mean"] == [0.1307]
