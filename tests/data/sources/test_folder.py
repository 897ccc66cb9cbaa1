"""Folders with a directory per class."""

import os
import pathlib
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from cnn_jax import data
from cnn_jax.data import load_dataset, open_source


def open_folder(root, split="train"):
    return open_source(f"folder:{root}", split)


def test_classes_are_directories_and_examples_are_sorted_by_path(folder):
    train, test = open_folder(folder), open_folder(folder, "test")
    assert isinstance(train, data.Source)
    assert (len(train), len(test)) == (23, 7)
    assert train.class_names == test.class_names == ("cat", "dog", "owl")
    examples = [train[index] for index in range(len(train))]
    assert [example.origin for example in examples] == sorted(
        str(path) for path in (folder / "train").rglob("*.png")
    )
    for example in examples:
        assert f"/{train.class_names[example.label]}/" in example.origin
        assert example.image == pathlib.Path(example.origin).read_bytes()
    again = pickle.loads(pickle.dumps(train))
    assert again[5] == train[5]
    assert again.fingerprint == train.fingerprint


def test_other_files_are_left_alone_and_nested_ones_count(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "more")
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    (root / "train" / ".hidden").mkdir()
    (root / "train" / "README").write_text("no class")
    assert open_folder(root).fingerprint == open_folder(folder).fingerprint
    nested = root / "train" / "dog" / "puppies" / "A.JPEG"
    nested.parent.mkdir()
    Image.new("RGB", (4, 4)).save(nested)
    found = open_folder(root)
    assert len(found) == 24
    origins = {found[index].origin: found[index].label for index in range(24)}
    assert origins[str(nested)] == 1


def test_a_root_of_classes_is_the_training_split(folder):
    assert len(open_folder(folder / "train")) == 23
    with pytest.raises(FileNotFoundError, match="there are no splits"):
        open_folder(folder / "train", "test")


def test_a_changed_file_changes_the_fingerprint(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "other")
    before = open_folder(root).fingerprint
    path = next((root / "train").rglob("*.png"))
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)  # of the same size
    assert open_folder(root).fingerprint != before
    path.rename(path.with_name("zzz.png"))
    assert open_folder(root).fingerprint != before


def test_what_is_wrong_with_a_folder_is_said_at_once(folder, tmp_path):
    with pytest.raises(ValueError, match=r"got 'folder:', expected folder:PATH"):
        open_folder("")
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/nowhere: expected a dir"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(
        FileNotFoundError, match=r"the splits there are \['test', 'train'\]"
    ):
        open_folder(folder, "validation")
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="got no directory in it, expected one per"):
        open_folder(tmp_path)
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "train" / "cat" / "1.png")
    with pytest.raises(ValueError, match=r"of every class, found none in .*/dog"):
        open_folder(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_directory_that_cannot_be_read(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "locked")
    (root / "train" / "cat").chmod(0)
    try:
        with pytest.raises(PermissionError, match="cat"):
            open_folder(root)
    finally:
        (root / "train" / "cat").chmod(0o700)


def test_an_error_while_listing_is_not_swallowed(folder, monkeypatch):
    list_directory = os.scandir

    def refuse(path):
        # Python 3.13 lists the splits and classes by it as well.
        if os.path.basename(path) == "cat":
            raise PermissionError(13, "Permission denied", str(path))
        return list_directory(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="cat"):
        open_folder(folder)


def test_small_folders_can_be_read_into_memory(folder):
    dataset = load_dataset(f"folder:{folder}", "train", image_size=8)
    assert dataset.images.shape == (23, 8, 8, 3)
    source = open_folder(folder)
    np.testing.assert_array_equal(
        dataset.labels, [source[index].label for index in range(23)]
    )


def test_an_unreadable_image_is_named_when_all_are_read(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "damaged")
    (root / "train" / "dog" / "0001.png").write_bytes(b"")
    with pytest.raises(data.ImageError, match=r"dog/0001\.png: the file is empty"):
        load_dataset(f"folder:{root}", "train")
