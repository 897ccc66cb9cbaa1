"""Folders of images, split by themselves."""

import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from cnn_jax.data import (
    Subset,
    automatic_validation_share,
    hold_out,
    load_dataset,
    partition,
    split_folder,
)
from cnn_jax.data.partition import num_held_out


def write(root, counts):
    """Writes `root/CLASS/NN.png`."""
    for name, count in counts.items():
        directory = pathlib.Path(root, name)
        directory.mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (4, 4), (index, 0, 0)).save(directory / f"{index:03}.png")
    return root


def files(part):
    """The paths of a part's examples, relative to the folder with the classes."""
    folder = part.source if isinstance(part, Subset) else part
    origins = [part[index].origin for index in range(len(part))]
    return {str(pathlib.Path(path).relative_to(folder.directory)) for path in origins}


def test_a_flat_folder_is_split_class_by_class(tmp_path):
    parts = split_folder(write(tmp_path / "flat", {"ant": 40, "bee": 100, "cat": 10}))
    assert list(parts) == ["train", "test", "validation"]
    found = {name: files(part) for name, part in parts.items()}
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == 150
    counts = {
        name: [sum(path.startswith(kind) for path in paths) for kind in "abc"]
        for name, paths in found.items()
    }
    assert counts == {
        "train": [26, 65, 6],
        "test": [8, 20, 2],
        "validation": [6, 15, 2],
    }
    assert [parts["test"][index].label for index in range(30)] == (
        [0] * 8 + [1] * 20 + [2] * 2
    )
    assert {part.name for part in parts.values()} == {f"folder:{tmp_path / 'flat'}"}
    assert len({part.fingerprint for part in parts.values()}) == 3


def test_the_split_follows_from_names_and_seed_alone(tmp_path):
    root = write(tmp_path / "one", {"ant": 20, "bee": 20})
    expected = {name: files(part) for name, part in split_folder(root).items()}
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    assert {n: files(p) for n, p in split_folder(moved).items()} == expected
    other = {name: files(part) for name, part in split_folder(root, seed=1).items()}
    assert other["test"] != expected["test"]
    # Another class changes nothing in these.
    write(moved, {"cat": 20})
    again = files(split_folder(moved)["test"])
    assert {path for path in again if not path.startswith("cat")} == expected["test"]


def test_a_further_example_moves_at_most_one_across_each_boundary():
    shares = {"test": 0.2, "validation": 0.15}
    for count in range(4, 80):
        names = [f"ant/{index}.jpg" for index in range(count + 1)]
        before = partition(names[:-1], np.zeros(count, int), shares)
        after = partition(names, np.zeros(count + 1, int), shares)
        for name in ("train", "test"):
            assert len(set(before[name].tolist()) - set(after[name].tolist())) <= 1
        joined = [
            set(found["test"].tolist()) | set(found["validation"].tolist())
            for found in (before, after)
        ]
        assert len(joined[0] - joined[1]) <= 1


@pytest.mark.parametrize("count", [2, 3, 5, 9, 1000])
def test_parts_have_some_of_every_class_and_leave_some(count):
    names = [f"{index}" for index in range(count)]
    found = partition(names, np.zeros(count, int), {"test": 0.001})
    assert (len(found["test"]), len(found["train"])) == (1, count - 1)
    found = partition(names, np.zeros(count, int), {"test": 0.999})
    assert len(found["train"]) == 1


def test_what_is_split_already_is_taken_as_it_is(tmp_path):
    for split, count in (("train", 60), ("val", 4), ("test", 5)):
        write(tmp_path / "all" / split, {"ant": count, "bee": count})
    parts = split_folder(tmp_path / "all")
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 120,
        "validation": 8,
        "test": 10,
    }
    # Without a test directory, the other is what is tested on.
    shutil.rmtree(tmp_path / "all" / "test")
    parts = split_folder(tmp_path / "all", validation_share=0.1)
    assert len(parts["test"]) == 8
    assert parts["test"].split == "val"
    assert len(parts["validation"]) == 12
    assert not files(parts["train"]) & files(parts["validation"])
    shutil.rmtree(tmp_path / "all" / "val")
    parts = split_folder(tmp_path / "all", validation_share=0.0)
    assert {n: len(part) for n, part in parts.items()} == {"train": 96, "test": 24}


def test_validation_images_are_held_out_where_they_are_enough(tmp_path):
    assert automatic_validation_share(133) == 0
    assert automatic_validation_share(134) == 0.15
    assert automatic_validation_share(10**6) * 10**6 == 5000
    root = write(tmp_path / "few", {"ant": 20, "bee": 20, "cat": 20})
    assert list(split_folder(root)) == ["train", "test"]
    assert len(split_folder(root, validation_share=0.1)["validation"]) == 6
    # Two images of a class are enough to train and test, not for three parts.
    root = write(tmp_path / "rare", {"ant": 200, "bee": 2})
    assert list(split_folder(root)) == ["train", "test"]


@pytest.mark.parametrize("fraction", [0.04, 0.1, 0.15, 0.25, 0.5])
def test_the_number_held_out_is_known_before(fraction):
    digits = load_dataset("digits", "train", image_size=8)
    assert num_held_out(digits, 0.0) == 0
    rest, held = digits.split_off(fraction)
    assert num_held_out(digits, fraction) == len(held) == len(digits) - len(rest)
    streamed = Subset(digits, np.arange(len(digits)), "train")
    assert num_held_out(streamed, fraction) == len(hold_out(streamed, fraction)[1])


def test_what_cannot_be_split_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a directory"):
        split_folder(tmp_path / "nowhere")
    one = write(tmp_path / "one", {"ant": 9})
    with pytest.raises(ValueError, match="got one class, 'ant', expected at least two"):
        split_folder(one)
    write(one, {"bee": 1})
    with pytest.raises(ValueError, match=r"got 1 image\(s\) of 'bee', .* at least 2"):
        split_folder(one)
    write(one, {"cat": 2})
    with pytest.raises(ValueError, match="at least 3 of each class"):
        split_folder(one, validation_share=0.2)
    with pytest.raises(ValueError, match=r"got 0.6, 0.5 to hold out"):
        split_folder(one, test_share=0.6, validation_share=0.5)
