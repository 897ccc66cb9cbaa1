"""Data sets that are there, damaged or missing."""

import PIL.Image
import pytest

from cnn_jax.doctor.datasets import check_data_dir, check_dataset


@pytest.fixture
def photos(tmp_path):
    for name in ("cat", "dog"):
        directory = tmp_path / "train" / name
        directory.mkdir(parents=True)
        for number in range(3):
            PIL.Image.new("RGB", (8, 8), (number, 2, 3)).save(
                directory / f"{number}.png"
            )
    return tmp_path


def look(root, split="train"):
    return check_dataset(f"folder:{root}", None, split, 60.0)


def test_a_folder_that_serves(photos):
    found = look(photos)
    assert found.verdict == "ok"
    assert found.sentence == "6 examples of 2 classes; 6 were read and decoded."


def test_an_image_that_is_none_is_a_fault(photos):
    (photos / "train" / "dog" / "2.png").write_bytes(b"no image")
    found = look(photos)
    assert found.verdict == "fault"
    assert "1 of 6 examples" in found.sentence
    assert "number 5" in found.sentence
    assert "--max-bad-images" in found.remedy


def test_files_that_are_left_out_are_a_warning(photos):
    (photos / "train" / "dog" / "3.heic").write_bytes(b"?")
    found = look(photos)
    assert (found.verdict, "left out" in found.sentence) == ("warning", True)


def test_a_split_or_set_that_is_missing_is_a_fault(photos, tmp_path):
    assert look(photos, "test").verdict == "fault"
    assert look(tmp_path / "none").verdict == "fault"
    found = check_dataset("cifar10", str(tmp_path), "train", 60.0)
    assert found.verdict == "fault"
    assert "cifar10" in found.sentence


def test_a_set_of_a_library():
    assert check_dataset("digits", None, "train", 60.0).verdict == "ok"


def test_a_data_directory(tmp_path):
    assert check_data_dir(str(tmp_path / "none"), 60.0).verdict == "fault"
    assert check_data_dir(str(tmp_path), 60.0).verdict == "warning"
    (tmp_path / "cifar10").mkdir()
    found = check_data_dir(str(tmp_path), 60.0)
    assert (found.verdict, "holds cifar10" in found.sentence) == ("ok", True)
