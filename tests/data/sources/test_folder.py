"""Folders with a directory per class."""

import os
import pathlib
import pickle
import re
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

from cnn_jax import data
from cnn_jax.data import ImageError, load_dataset, open_source
from cnn_jax.data.host import decode_image
from cnn_jax.data.host.decode import FORMATS, SUFFIXES


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


def save(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(path, "PNG")
    return path


def files_of(source):
    """The examples' paths below the split, with the names of their classes."""
    origins = [source[index] for index in range(len(source))]
    return {
        str(pathlib.Path(each.origin).relative_to(source.root / source.split)): (
            source.class_names[each.label]
        )
        for each in origins
    }


@pytest.fixture
def small(tmp_path):
    """Two classes of one image each."""
    for name in ("cat/1.png", "dog/1.png"):
        save(tmp_path / "data" / "train" / name)
    return tmp_path / "data"


SMALL = {"cat/1.png": "cat", "dog/1.png": "dog"}


@pytest.mark.parametrize(
    "name",
    [
        *(".hidden", ".ipynb_checkpoints", "__MACOSX", "@eaDir", "lost+found"),
        *("$RECYCLE.BIN", "System Volume Information", "#recycle", "__pycache__"),
    ],
)
def test_hidden_directories_are_passed_over_at_every_level(small, name):
    before = open_folder(small).fingerprint
    for place in ("", "train", "train/cat", "train/dog/deeper/still"):
        save(small / place / name / "x.jpg")
        save(small / place / name / "nested" / "x.jpg")
    assert files_of(open_folder(small)) == SMALL
    assert open_folder(small).fingerprint == before
    # Also where the root holds the classes.
    source = open_folder(small / "train")
    assert (len(source), source.class_names) == (2, ("cat", "dog"))


def test_hidden_files_are_passed_over(small):
    for name in (".x.jpg", "._1.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        for place in ("", "train", "train/cat", "train/cat/deeper"):
            save(small / place / name)
    assert files_of(open_folder(small)) == SMALL


def test_linked_directories_are_followed(small, tmp_path):
    save(tmp_path / "elsewhere" / "2.png")
    save(tmp_path / "elsewhere" / "deep" / "3.png")
    (small / "train" / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (small / "train" / "owl").symlink_to(tmp_path / "elsewhere")
    (small / "train" / "dog" / "linked.png").symlink_to(tmp_path / "elsewhere/2.png")
    assert files_of(open_folder(small)) == SMALL | {
        "cat/more/2.png": "cat",
        "cat/more/deep/3.png": "cat",
        "dog/linked.png": "dog",
        "owl/2.png": "owl",
        "owl/deep/3.png": "owl",
    }
    inside = save(tmp_path / "elsewhere" / "deep" / ".hidden" / "4.png")
    (tmp_path / "elsewhere" / ".link").symlink_to(inside.parent)
    assert len(open_folder(small)) == 7
    # A link in what is linked.
    save(tmp_path / "third" / "5.png")
    (tmp_path / "elsewhere" / "third").symlink_to(tmp_path / "third")
    assert files_of(open_folder(small))["cat/more/third/5.png"] == "cat"


def test_no_directory_of_a_class_is_read_twice(small, tmp_path):
    cat = small / "train" / "cat"
    save(cat / "z" / "2.png")
    save(tmp_path / "elsewhere" / "sub" / "3.png")
    (cat / "a").symlink_to(cat / "z")  # of the same class, and before it by name
    (cat / "b").symlink_to(tmp_path / "elsewhere")
    (cat / "c").symlink_to(tmp_path / "elsewhere")
    (cat / "d").symlink_to(tmp_path / "elsewhere" / "sub")
    with pytest.warns(UserWarning, match="left out 3 links to dir.* are read already"):
        source = open_folder(small)
    assert files_of(source) == SMALL | {
        "cat/z/2.png": "cat",
        "cat/b/sub/3.png": "cat",
    }
    # Two classes may have the same images.
    (small / "train" / "dog" / "e").symlink_to(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="left out 3 links"):
        assert files_of(open_folder(small))["dog/e/sub/3.png"] == "dog"


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "/", "up"])
def test_links_that_lead_back_end(small, target):
    """Followed, one to the split would put the images of all classes into one."""
    (small / "train" / "cat" / "up").symlink_to(target)
    with pytest.warns(UserWarning, match=r"left out 1 .*link.* \(cat/up\)\."):
        source = open_folder(small)
    assert files_of(source) == SMALL


def test_links_between_directories_that_lead_back_end(small, tmp_path):
    for name, other in (("one", "two"), ("two", "one")):
        save(tmp_path / name / "2.png")
        (tmp_path / name / "other").symlink_to(tmp_path / other)
    (small / "train" / "cat" / "one").symlink_to(tmp_path / "one")
    with pytest.warns(UserWarning, match=r"1 link to .*\(cat/one/other/other\)"):
        source = open_folder(small)
    assert files_of(source) == SMALL | {
        "cat/one/2.png": "cat",
        "cat/one/other/2.png": "cat",
    }


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_that_leads_back_is_no_class(small, target):
    (small / "train" / "all").symlink_to(target)
    with pytest.warns(UserWarning, match=r"1 link to a directory .*\(all\)"):
        assert open_folder(small).class_names == ("cat", "dog")


def test_a_split_and_a_root_may_be_links(small, tmp_path):
    (tmp_path / "linked").symlink_to(small)
    (small / "test").symlink_to("train")
    for split in ("train", "test"):
        assert files_of(open_folder(tmp_path / "linked", split)) == SMALL
    assert (
        open_folder(tmp_path / "linked").fingerprint == open_folder(small).fingerprint
    )


def test_broken_links_are_named(small):
    for place in ("cat/2.png", "dog/deeper", "owl"):
        (small / "train" / place).symlink_to("nowhere")
    with pytest.warns(
        UserWarning,
        match=r"left out 3 broken links \(cat/2\.png, dog/deeper, owl\)\. Images",
    ):
        assert files_of(open_folder(small)) == SMALL


def test_what_is_left_out_is_said_once(small):
    for number in range(1200):
        (small / "train" / "cat" / f"{number:04}.HEIC").touch()
    for name in ("dog/a.psd", "dog/b.heic", "dog/sub/noextension"):
        path = small / "train" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    save(small / "train" / "lost.png")
    (small / "train" / "dog" / "labels.txt").touch()
    with pytest.warns(UserWarning, match="left out") as found:
        source = open_folder(small)
    assert files_of(source) == SMALL
    assert [str(each.message) for each in found] == [
        f"{source.name}, split 'train': left out "
        "1,201 .heic files (cat/0000.HEIC, cat/0001.HEIC, cat/0002.HEIC, ...), "
        "1 .psd file (dog/a.psd), "
        "1 file without an extension (dog/sub/noextension), "
        "1 image outside the directories of classes (lost.png). "
        f"Images are read from files that end with {', '.join(SUFFIXES)}."
    ]
    assert found[0].filename == data.sources.__file__


def test_many_kinds_are_summed_up(small):
    for number in range(30):
        (small / "train" / "cat" / f"image.{number:03}").touch()
    with pytest.warns(UserWarning, match=r"1 \.005 file \(cat/image\.005\), 24 others"):
        open_folder(small)


@pytest.mark.parametrize("upper", [False, True])
def test_all_that_can_be_decoded_is_read(tmp_path, upper):
    suffixes = [suffix.upper() if upper else suffix for suffix in SUFFIXES]
    for suffix in suffixes:
        path = tmp_path / "train" / suffix[1:] / f"1{suffix}"
        path.parent.mkdir(parents=True)
        kind = Image.registered_extensions()[suffix.lower()]
        mode = "1" if suffix.lower() == ".pbm" else "L"
        Image.new(mode, (8, 8), 255).save(path, kind)
    source = open_folder(tmp_path)
    assert len(source) == len(suffixes)
    for index in range(len(source)):
        example = source[index]
        pixels = decode_image(example.image, origin=example.origin)
        assert pixels.shape == (8, 8, 3)
        assert pixels.min() > 250


def test_every_format_has_a_suffix():
    kinds = {Image.registered_extensions()[suffix] for suffix in SUFFIXES}
    assert kinds == {*FORMATS, "MPO"}


def test_a_class_of_which_nothing_is_read(small):
    (small / "train" / "owl").mkdir()
    (small / "train" / "owl" / "a.heic").touch()
    (small / "train" / "owl" / "b.txt").touch()
    with pytest.raises(
        ValueError,
        match=r"found none in \S+/owl, but 1 \.heic file \(owl/a\.heic\), which are",
    ):
        open_folder(small)


def test_images_without_directories(tmp_path):
    save(tmp_path / "train" / "1.png")
    with pytest.raises(
        ValueError, match=r"expected one per class, but 1 image outside .*\(1\.png\)"
    ):
        open_folder(tmp_path)


def test_names_of_classes(small):
    """Names are taken as they are; those that differ at all are different classes."""
    composed = unicodedata.normalize("NFC", "caf\u00e9")
    names = {"Cat", "cat ", composed, unicodedata.normalize("NFD", composed)}
    for name in names:
        save(small / "train" / name / "x.png")
    if len(list((small / "train").iterdir())) < 6:
        pytest.skip("The file system is not case-sensitive.")
    assert open_folder(small).class_names == tuple(sorted({*names, "cat", "dog"}))
    try:
        os.mkdir(os.fsencode(small / "train") + b"/caf\xe9")
    except OSError:
        return  # macOS refuses it by itself
    with pytest.raises(
        ValueError, match=re.escape(r"called b'caf\xe9', expected name")
    ):
        open_folder(small)


def test_names_of_files_may_be_anything(small):
    name = os.fsencode(small / "train" / "cat") + b"/caf\xe9.png"
    try:
        shutil.copy(small / "train/cat/1.png", os.fsdecode(name))
    except OSError:
        pytest.skip("The file system takes names in UTF-8 only.")
    source = open_folder(small)
    assert len(source) == 3
    assert source[1].image == source[0].image
    assert len(source.fingerprint) == 64
    os.rename(name, name.replace(b".png", b".heic"))
    with pytest.warns(UserWarning, match=r"1 \.heic file \(cat/caf\\xe9\.heic\)"):
        open_folder(small)


def test_splits_in_capitals_are_no_classes(small):
    (small / "train").rename(small / "Train")
    save(small / "Test" / "cat" / "1.png")
    if (small / "train").exists():
        pytest.skip("The file system is not case-sensitive.")
    with pytest.raises(
        FileNotFoundError, match=r"splits there are \['Test', 'Train'\]"
    ):
        open_folder(small)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_file_is_not_opened(small):
    os.mkfifo(small / "train" / "cat" / "2.png")
    with pytest.warns(UserWarning, match=r"left out 1 special file \(cat/2\.png\)"):
        assert files_of(open_folder(small)) == SMALL


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_takes_the_place_of_an_image_is_a_bad_image(small):
    source = open_folder(small)
    path = small / "train" / "cat" / "1.png"
    assert source[0].origin == str(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ImageError, match=rf"^{path}: got a named pipe, expected a reg"):
        source[0]
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ImageError, match=rf"^{path}: got a device, expected a regular"):
        source[0]
    with pytest.raises(ValueError, match="got a device"):
        assert source.fingerprint


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
