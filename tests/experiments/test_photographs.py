"""The folder of photographs, and the comparison on it."""

import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photographs(load_experiment, monkeypatch):
    """The experiment with the two photographs that every installation has."""
    module = load_experiment("photographs")
    assert len(module.PHOTOGRAPHS) == 6
    two = {name: module.PHOTOGRAPHS[name] for name in ("flower", "temple")}
    monkeypatch.setattr(module, "PHOTOGRAPHS", two)
    return module


def test_no_piece_is_in_both_folders(photographs, tmp_path):
    photographs.cut(tmp_path / "out", 5)
    files = sorted((tmp_path / "out").rglob("*.jpg"))
    folders = [file.parent.relative_to(tmp_path / "out") for file in files]
    assert {str(each): folders.count(each) for each in folders} == {
        f"{part}/{name}": 5
        for part in ("photographs", "others")
        for name in ("flower", "temple")
    }
    pieces = []
    for file in files:
        with Image.open(file) as image:
            assert (image.size, image.mode) == ((64, 48), "L")
            pieces.append(np.asarray(image).tobytes())
    assert len(set(pieces)) == len(pieces)


def test_what_is_there_is_not_written_over(photographs, tmp_path):
    with pytest.raises(SystemExit, match=r"FileExistsError: .*exists"):
        photographs.main(["--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_photographs_that_are_missing(photographs, tmp_path, monkeypatch):
    monkeypatch.setitem(photographs.PHOTOGRAPHS, "cat", ("no_package", "cat.png"))
    with pytest.raises(SystemExit, match="ImportError: no_package is not installed"):
        photographs.main(["--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_command_that_fails_ends_it_with_its_status(photographs, tmp_path, capfd):
    arguments = ["--out", str(tmp_path / "out"), "--methods", "from-scratch"]
    with pytest.raises(SystemExit) as stopped:
        photographs.main([*arguments, "--no-such-option"])
    assert stopped.value.code == 2
    out, err = capfd.readouterr()
    assert "$ cnn-jax train efficientnet_lite0 --data folder:" in out
    assert "--no-such-option" in err


@pytest.mark.nightly
def test_it_trains_and_scores(photographs, tmp_path):
    record = tmp_path / "record.json"
    arguments = ["--out", str(tmp_path / "out"), "--json", str(record)]
    arguments += ["--methods", "from-scratch", "--epochs", "1", "--image-size", "32"]
    photographs.main(arguments)
    (row,) = json.loads(record.read_text())["rows"].values()
    assert row["num_examples"] == 40
    assert 0 <= row["accuracy"]["low"] <= row["accuracy"]["mean"] <= 1
    assert min(row["train_seconds"], row["evaluate_seconds"]) > 0
