"""Places that an export is written to, and files that it must not replace."""

import os
import sys

import numpy as np
import pytest
import safetensors.numpy

from cnn_jax import trees
from cnn_jax.export import exporting
from cnn_jax.pretrained.convert import write_weights

WRITERS = {"stablehlo": "flatbuffers", "onnx": "onnx"}


@pytest.fixture
def weights(make_network, tmp_path):
    path = tmp_path / "lenet5.safetensors"
    variables = make_network("lenet5").variables
    safetensors.numpy.save_file(dict(trees.named_leaves(variables)), path)
    return path


def others(directory):
    """Makes what is no export: by name, how, and what the error says."""
    (directory / "notes.txt").write_text("cnn_jax is a package")
    (directory / "empty").touch()
    (directory / "folder").mkdir()
    (directory / "link").symlink_to(directory / "notes.txt")
    os.mkfifo(directory / "pipe")
    return ("notes.txt", "empty", "folder", "link", "pipe")


def states(directory):
    """Returns what would differ of each path if it had been written or replaced."""
    found = ((path, path.lstat()) for path in directory.iterdir())
    return {path: (s.st_ino, s.st_mode, s.st_size, s.st_mtime_ns) for path, s in found}


@pytest.mark.parametrize("format", exporting.FORMATS)
def test_other_files_are_not_replaced(format, weights, tmp_path):
    names = others(tmp_path)
    before = states(tmp_path)
    for name in names:
        with pytest.raises(ValueError, match=name):
            exporting.export(weights, tmp_path / name, format=format, model="lenet5")
    assert states(tmp_path) == before


def test_converted_weights_are_not_replaced(weights, tmp_path):
    place = tmp_path / "converted.safetensors"
    write_weights(place, {"params": {"x": np.ones(3)}}, {"kind": "cnn_jax.pretrained"})
    with pytest.raises(ValueError, match="did not write"):
        exporting.export(weights, place, format="onnx", model="lenet5")


def test_the_weights_themselves_are_not_replaced(weights):
    with pytest.raises(ValueError, match="an input as well"):
        exporting.export(weights, weights, format="onnx", model="lenet5")


@pytest.mark.parametrize("format", exporting.FORMATS)
def test_in_a_runs_directory_exports_alone_are_replaced(format, tmp_path, monkeypatch):
    marks = dict(zip(exporting.FORMATS, exporting._MARKS, strict=True))
    (tmp_path / "export").write_bytes(b"\x08\x08" + marks[format])
    names = ("config.json", "link")
    (tmp_path / "config.json").write_text('{"config": {"model": "lenet5"}}')
    (tmp_path / "link").symlink_to(tmp_path / "export")
    for name in names:
        with pytest.raises(ValueError, match=rf"{name}: got an output that is an inp"):
            exporting.export(tmp_path, tmp_path / name, format=format)
    # The place is no obstacle: the next one is the package, which is missing.
    monkeypatch.setitem(sys.modules, WRITERS[format], None)
    with pytest.raises(ImportError):
        exporting.export(tmp_path, tmp_path / "export", format=format)


@pytest.mark.parametrize("format", exporting.FORMATS)
def test_a_missing_package_is_named_first(format, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, WRITERS[format], None)
    with pytest.raises(ImportError, match=r"pip install 'cnn_jax\[export\]'"):
        exporting.export(tmp_path / "nothing", tmp_path / "out", format=format)


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected stablehlo or onnx"):
        exporting.export(tmp_path, tmp_path / "out", format="torchscript")


@pytest.mark.parity
@pytest.mark.parametrize("format", exporting.FORMATS)
def test_an_export_is_replaced(format, weights, tmp_path):
    pytest.importorskip(WRITERS[format])
    place = tmp_path / "new" / "out"
    for normalized in (False, True):
        written = exporting.export(
            weights, place, format=format, model="lenet5", normalized=normalized
        )
        assert written["bytes"] == place.stat().st_size
        assert written["normalized"] is normalized
    assert [path.name for path in place.parent.iterdir()] == ["out"]
