"""Small archives in the publishers' formats, prepared and read back; broken ones."""

import contextlib
import dataclasses
import gzip
import io
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers.quick import nightly_except
from PIL import Image

from cnn_jax import cli, data
from cnn_jax.data import owner
from cnn_jax.data.prepare import (
    RECIPES,
    ArchiveError,
    archives,
    cifar,
    imagenet,
    prepare,
)
from cnn_jax.data.prepare.recipe import Recipe, SourceFile, labelled_image_features

CLASSES_10 = [f"class {n}" for n in range(10)]


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def cifar_rows(generator, count, label_bounds):
    labels = [
        generator.integers(0, most, (count, 1), np.uint8) for most in label_bounds
    ]
    pixels = generator.integers(0, 256, (count, 3072), np.uint8)
    return np.concatenate([*labels, pixels], axis=1)


def write_cifar10(directory, generator, rows=None):
    rows = rows or {
        **{f"data_batch_{n}.bin": cifar_rows(generator, 4, [10]) for n in range(1, 6)},
        "test_batch.bin": cifar_rows(generator, 3, [10]),
    }
    with tarfile.open(directory / "cifar-10-binary.tar.gz", "w:gz") as archive:
        add(archive, "cifar/batches.meta.txt", "\n".join(CLASSES_10).encode() + b"\n\n")
        for name, content in rows.items():
            add(archive, f"cifar/{name}", content.tobytes())
    return rows


def write_cifar100(directory, generator):
    rows = {
        "train.bin": cifar_rows(generator, 6, [20, 100]),
        "test.bin": cifar_rows(generator, 3, [20, 100]),
    }
    with tarfile.open(directory / "cifar-100-binary.tar.gz", "w:gz") as archive:
        for kind, count in (("coarse", 20), ("fine", 100)):
            names = "\n".join(f"{kind} {n}" for n in range(count)).encode()
            add(archive, f"cifar/{kind}_label_names.txt", names)
        for name, content in rows.items():
            add(archive, f"cifar/{name}", content.tobytes())
    return rows


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.tobytes())


def write_mnist(directory, generator):
    written = {}
    for split, prefix, count in (("train", "train", 5), ("test", "t10k", 3)):
        images = generator.integers(0, 256, (count, 28, 28), np.uint8)
        labels = generator.integers(0, 10, count, np.uint8)
        (directory / f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (directory / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
        written[split] = images, labels
    return written


def jpeg(shade, mode="RGB"):
    file = io.BytesIO()
    Image.new(mode, (20, 14), shade if mode == "RGB" else (*shade, 0)).save(
        file, "JPEG"
    )
    return file.getvalue()


def write_imagenet(directory):
    """Two classes with three and two images, and four validation images.

    Of the training images, red encodes the class and its number, twenty times each.
    """
    with tarfile.open(directory / "ILSVRC2012_img_train.tar", "w") as outer:
        for label, count in (("n01443537", 2), ("n01440764", 3)):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for n in range(count):
                    mode = "CMYK" if n == 1 else "RGB"
                    red = 20 * (n + 3 * (label == "n01443537"))
                    add(archive, f"{label}_{n}.JPEG", jpeg((red, 0, 0), mode))
            add(outer, f"{label}.tar", inner.getvalue())
    with tarfile.open(directory / "ILSVRC2012_img_val.tar", "w") as archive:
        for n in (2, 1, 4, 3):
            add(archive, f"ILSVRC2012_val_{n:08}.JPEG", jpeg((0, 40 * n, 0)))


def test_cifar10_reads_back_through_tfds_and_through_us(tmp_path, generator):
    rows = write_cifar10(tmp_path, generator)
    done = prepare("cifar10", tmp_path, tmp_path / "tfds", check=False)
    assert done.num_examples == {"train": 20, "test": 3}
    assert done.directory == tmp_path / "tfds" / "cifar10" / "3.0.2"
    train = np.concatenate([rows[f"data_batch_{n}.bin"] for n in range(1, 6)])
    images = train[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    ours = data.load_dataset("cifar10", "train", data_dir=tmp_path / "tfds")
    np.testing.assert_array_equal(ours.images, images)
    np.testing.assert_array_equal(ours.labels, train[:, 0])
    assert ours.class_names == tuple(CLASSES_10)
    theirs = tfds.data_source("cifar10", split="train", data_dir=tmp_path / "tfds")
    np.testing.assert_array_equal(np.stack([r["image"] for r in theirs]), images)
    assert not [
        path for path in done.directory.parent.iterdir() if "incomp" in path.name
    ]


def test_cifar100_keeps_both_kinds_of_labels(tmp_path, generator):
    rows = write_cifar100(tmp_path, generator)
    prepare("cifar100", tmp_path, tmp_path, check=False)
    source = tfds.data_source("cifar100", split="test", data_dir=tmp_path)
    np.testing.assert_array_equal(
        [r["coarse_label"] for r in source], rows["test.bin"][:, 0]
    )
    ours = data.load_dataset("cifar100", "test", data_dir=tmp_path)
    np.testing.assert_array_equal(ours.labels, rows["test.bin"][:, 1])
    assert ours.class_names[99] == "fine 99"


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist(tmp_path, generator, name):
    written = write_mnist(tmp_path, generator)
    prepare(name, tmp_path, tmp_path, check=False)
    for split, (images, labels) in written.items():
        ours = data.load_dataset(name, split, data_dir=tmp_path)
        np.testing.assert_array_equal(ours.images[..., 0], images)
        np.testing.assert_array_equal(ours.labels, labels)
    assert ours.class_names[9] == ("9" if name == "mnist" else "Ankle boot")


def test_imagenet_keeps_its_files(tmp_path):
    write_imagenet(tmp_path)
    done = prepare("imagenet2012", tmp_path, tmp_path, check=False, processes=2)
    assert done.num_examples == {"train": 5, "validation": 4}
    train = data.open_source("imagenet2012", "train", data_dir=tmp_path)
    assert len(train.class_names) == 1000
    found = {train[n].image: train[n].label for n in range(5)}
    modes = ("RGB", "CMYK", "RGB", "RGB", "CMYK")
    assert found == {
        jpeg((20 * n, 0, 0), mode): int(n > 2) for n, mode in enumerate(modes)
    }
    assert train.features == data.Features((None, None, 3), encoded=True)
    validation = data.open_source("imagenet2012", "validation", data_dir=tmp_path)
    labels = pathlib.Path(tfds.__file__).parent / "datasets/imagenet2012"
    names = (labels / "validation_labels.txt").read_text().split()[:4]
    assert [validation.class_names[validation[n].label] for n in range(4)] == names
    assert validation[2].image == jpeg((0, 120, 0))
    images = [
        example["image"]
        for example in tfds.data_source(
            "imagenet2012", split="validation", data_dir=tmp_path
        )
    ]
    assert images[0].shape == (14, 20, 3)


def test_a_part_of_imagenets_training_split_has_images_of_every_class(
    tmp_path, monkeypatch
):
    labels = imagenet._list("labels.txt")[:4]
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "w") as outer:
        for label in labels:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for n in range(20):
                    add(archive, f"{label}_{n}.JPEG", f"{label} {n}".encode())
            add(outer, f"{label}.tar", inner.getvalue())
    monkeypatch.setattr(imagenet, "_IMAGES_PER_SHARD", 15)
    done = prepare("imagenet2012", tmp_path, tmp_path, check=False)
    assert len(list(done.directory.glob("*.array_record-*-of-00006"))) == 6
    for split, count in (("train[:25%]", 20), ("train", 80)):
        part = data.open_source("imagenet2012", split, data_dir=tmp_path)
        examples = [part[n] for n in range(len(part))]
        assert len({example.image for example in examples}) == count
        assert {example.label for example in examples} == {0, 1, 2, 3}
        for example in examples:
            assert example.image.decode().split()[0] == labels[example.label]


def test_one_of_imagenets_archives_is_enough(tmp_path):
    write_imagenet(tmp_path)
    (tmp_path / "ILSVRC2012_img_train.tar").unlink()
    done = prepare("imagenet2012", tmp_path, tmp_path, check=False)
    assert done.num_examples == {"validation": 4}


def test_the_published_checksum_is_asked_for(tmp_path, generator):
    write_mnist(tmp_path, generator)
    with pytest.raises(ArchiveError, match=r"got the sha256 .*, expected 440fcabf73cc"):
        prepare("mnist", tmp_path, tmp_path / "tfds")
    assert not (tmp_path / "tfds").exists()
    for recipe in RECIPES.values():
        assert all(len(file.sha256) == 64 for file in recipe.files)


def test_what_is_missing_is_listed(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"train-images-idx3.* and .*t10k-labels"
    ):
        prepare("mnist", tmp_path, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"ILSVRC2012_img_train.tar"):
        prepare("imagenet2012", tmp_path, tmp_path)
    with pytest.raises(ValueError, match="Did you mean 'cifar10'"):
        prepare("cifar", tmp_path, tmp_path)


def test_a_prepared_set_is_not_overwritten_unless_told(tmp_path, generator):
    write_mnist(tmp_path, generator)
    before = prepare("mnist", tmp_path, tmp_path / "tfds", check=False)
    content = {p.name: p.read_bytes() for p in before.directory.iterdir()}
    with pytest.raises(FileExistsError, match="--overwrite replaces it"):
        prepare("mnist", tmp_path, tmp_path / "tfds", check=False)
    assert {p.name: p.read_bytes() for p in before.directory.iterdir()} == content
    write_mnist(tmp_path, np.random.default_rng(1))
    prepare("mnist", tmp_path, tmp_path / "tfds", check=False, overwrite=True)
    assert {p.name: p.read_bytes() for p in before.directory.iterdir()} != content
    assert [path.name for path in before.directory.parent.iterdir()] == ["3.0.1"]


def test_an_interrupted_overwriting_leaves_no_half_of_a_set(
    tmp_path, generator, monkeypatch
):
    write_mnist(tmp_path, generator)
    done = prepare("mnist", tmp_path, tmp_path / "tfds", check=False)
    names = {path.name for path in done.directory.iterdir()}
    unlink, calls = os.unlink, []

    def interrupt(*arguments, **options):
        calls.append(arguments)
        if len(calls) > 1:
            raise KeyboardInterrupt
        unlink(*arguments, **options)

    monkeypatch.setattr(os, "unlink", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare("mnist", tmp_path, tmp_path / "tfds", check=False, overwrite=True)
    assert {path.name for path in done.directory.iterdir()} == names


def test_a_killed_preparation_does_not_look_prepared(tmp_path, generator):
    write_mnist(tmp_path, generator)
    # Killed when all is written but the last rename.
    program = """
import os, pathlib, signal, sys
from cnn_jax.data.prepare import prepare

rename = pathlib.Path.rename
def kill(path, target):
    if path.name == "3.0.1":
        print(*sorted(each.name for each in path.iterdir()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)
pathlib.Path.rename = kill
prepare("mnist", sys.argv[1], sys.argv[1], check=False)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "dataset_info.json" in done.stdout
    with pytest.raises(
        FileNotFoundError, match="expected a prepared TFDS set"
    ) as error:
        data.open_source("mnist", "train", data_dir=tmp_path)
    assert "Did you mean" not in str(error.value)
    assert prepare("mnist", tmp_path, tmp_path, check=False).num_examples["train"] == 5
    assert len(data.open_source("mnist", "train", data_dir=tmp_path)) == 5
    # What the killed process left was removed; another's, which may live, was not.
    assert [path.name for path in (tmp_path / "mnist").iterdir()] == ["3.0.1"]


@pytest.mark.slow
@pytest.mark.parametrize("wait", nightly_except([4], [0.3, 2, 4, 6, 8]))
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_of_its_processes(tmp_path, generator, number, wait):
    write_mnist(tmp_path, generator)
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
        "; from cnn_jax.cli import main; print('begun', flush=True); sys.exit(main())"
    )
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", code, "prepare", "mnist", "--no-check"),
            *("--from", str(tmp_path), "--data-dir", str(tmp_path / "tfds")),
            *("--processes", "2"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    process.stdout.readline()
    time.sleep(wait)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    output, error = process.communicate(timeout=60)
    assert "Traceback" not in error
    if "in train" not in output:  # else it was done
        assert process.returncode == 128 + number
        assert f"{number.name}: stopped before it was done." in error
    # A process that could not end by itself in time leaves it to the next start.
    owner.remove_directories_of_the_dead(tmp_path / "tfds" / "mnist", ".incomplete-")
    assert not list(tmp_path.rglob(".incomplete-*"))


class OneRecord:
    """A shard of one record with many entries."""

    entries = tuple(f"entry {letter}" for letter in "qwertyuiop")

    def records(self):
        yield {"image": jpeg((1, 2, 3)), "label": 0, **dict.fromkeys(self.entries, 7)}


def test_entries_lie_in_the_order_of_their_names(tmp_path, monkeypatch):
    # Otherwise it differs from process to process, and the fingerprint with it.
    from array_record.python.array_record_module import ArrayRecordReader

    entries = {name: tfds.features.Scalar(np.int64) for name in OneRecord.entries}
    recipe = Recipe(
        name="one",
        version="1.0.0",
        files=(SourceFile("one", ""),),
        features=lambda directory: labelled_image_features(
            (None, None, 3), ["only"], "jpeg", **entries
        ),
        shards=lambda directory, bar: {"train": [OneRecord()]},
    )
    monkeypatch.setitem(RECIPES, "one", recipe)
    (tmp_path / "one").touch()
    done = prepare("one", tmp_path, tmp_path / "tfds", check=False)
    reader = ArrayRecordReader(str(next(done.directory.glob("*array_record-*"))))
    (raw,) = reader.read_all()
    places = [raw.index(name.encode()) for name in sorted(OneRecord.entries)]
    assert places == sorted(places)


def broken_cifar(tmp_path, change):
    rows = {f"data_batch_{n}.bin": np.zeros((2, 3073), np.uint8) for n in range(1, 6)}
    rows["test_batch.bin"] = np.zeros((2, 3073), np.uint8)
    change(rows)
    write_cifar10(tmp_path, None, rows)


def set_label(rows):
    rows["data_batch_3.bin"][1, 0] = 10


def cut_record(rows):
    rows["test_batch.bin"] = rows["test_batch.bin"].reshape(-1)[:-5]


def lose_file(rows):
    del rows["data_batch_4.bin"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_label, r"data_batch_3.bin: got the label 10 in record 1, expected 0 to 9"),
        (cut_record, r"test_batch.bin: got 6141 bytes, expected a multiple of 3073"),
        (lose_file, r"expected a file called data_batch_4.bin in it, found none"),
    ],
)
def test_a_broken_cifar_leaves_nothing_behind(tmp_path, change, message):
    broken_cifar(tmp_path, change)
    with pytest.raises(ArchiveError, match=message):
        prepare("cifar10", tmp_path, tmp_path / "tfds", check=False)
    assert list((tmp_path / "tfds" / "cifar10").iterdir()) == []


def test_a_truncated_archive(tmp_path, generator):
    write_cifar10(tmp_path, generator)
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ArchiveError, match=r"damaged|found none"):
        prepare("cifar10", tmp_path, tmp_path / "tfds", check=False)


@pytest.mark.parametrize("name", ["../outside.bin", "/etc/outside.bin"])
def test_an_archive_that_points_outside_is_refused(tmp_path, name):
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        add(archive, name, b"x")
    with pytest.raises(ArchiveError, match="expected names inside the archive"):
        prepare("cifar10", tmp_path, tmp_path / "tfds", check=False)
    assert not (tmp_path / "outside.bin").exists()


def test_a_link_is_not_followed(tmp_path, generator):
    (tmp_path / "secret").write_bytes(b"\x00" * 3073)
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        link = tarfile.TarInfo("cifar/batches.meta.txt")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        archive.addfile(link)
    with pytest.raises(
        ArchiveError, match=r"expected a file called batches\.meta\.txt"
    ):
        prepare("cifar10", tmp_path, tmp_path / "tfds", check=False)


def test_a_member_that_claims_too_much_is_refused(tmp_path):
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        big = tarfile.TarInfo("cifar/data_batch_1.bin")
        big.size = 10**9
        archive.fileobj.write(big.tobuf())
    with pytest.raises(ArchiveError, match=r"got 1,000,000,000 bytes|damaged"):
        prepare("cifar10", tmp_path, tmp_path / "tfds", check=False)


def header(name, size, kind=tarfile.REGTYPE):
    """A tar header that says what tarfile would not write."""
    member = tarfile.TarInfo(name)
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = size.to_bytes(12, "big", signed=True)
    if size >= 0:
        block[124] = 0o200
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block[:512])


END = bytes(1024)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header("batches.meta.txt", -512), "got -512 bytes in batches.meta.txt"),
        (header("junk", 10**9), "got 1,000,000,000 bytes in junk, expected no more"),
        # Many members that are each small enough, and headers that are not.
        (20 * (header("junk", 512) + bytes(512)), "more than 5,000 bytes in it, decom"),
        (header("x", 10**9, tarfile.XHDTYPE) + bytes(9000), "more than 5,000 bytes"),
        (header("x", 10**9, tarfile.GNUTYPE_LONGNAME) + bytes(9000), "more than 5,000"),
        (header("batches.meta.txt", 512, tarfile.CHRTYPE), "found none"),
        (header("batches.meta.txt", 512, tarfile.GNUTYPE_SPARSE) + bytes(512), "found"),
    ],
)
def test_implausible_archives(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(cifar, "_MOST_BYTES", 5000)
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(gzip.compress(content + END))
    with pytest.raises(ArchiveError, match=message):
        prepare("cifar10", tmp_path, tmp_path / "tfds", check=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header("a.jpeg", -1024), "got -1,024 bytes in a.jpeg"),
        (header("a.jpeg", 10**12), "damaged"),
        (header("x", 2**21, tarfile.XHDTYPE) + bytes(2**21), "2,097,152 bytes of head"),
        (header("x", -512, tarfile.XHDTYPE), "damaged"),
        (header("a.jpeg", 512, tarfile.SYMTYPE), "expected regular files"),
        (
            header("a.jpeg", 512, tarfile.GNUTYPE_SPARSE) + bytes(512),
            "expected regular",
        ),
    ],
)
def test_implausible_members_are_not_indexed(tmp_path, content, message):
    path = tmp_path / "images.tar"
    path.write_bytes(content + END)
    with pytest.raises(ArchiveError, match=message):
        archives.index_members(path, suffix=".jpeg")


@pytest.mark.parametrize("place", ["source", "data_dir"])
def test_only_local_directories_are_worked_on(tmp_path, generator, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path, generator)
    places = {"source": tmp_path, "data_dir": tmp_path, place: "gs://bucket/tfds"}
    with pytest.raises(ValueError, match=f"{place}: got 'gs://bucket/tfds', expected"):
        prepare("mnist", **places, check=False)
    assert not (tmp_path / "gs:").exists()


def test_an_empty_split_is_refused(tmp_path, generator):
    write_mnist(tmp_path, generator)
    for kind, shape in (("images-idx3", (0, 28, 28)), ("labels-idx1", (0,))):
        path = tmp_path / f"t10k-{kind}-ubyte.gz"
        path.write_bytes(idx(np.zeros(shape, np.uint8)))
    with pytest.raises(ArchiveError, match=r"t10k-images.*got no image"):
        prepare("mnist", tmp_path, tmp_path / "tfds", check=False)
    assert list((tmp_path / "tfds" / "mnist").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged|expected an idx"),
        (b"no gzip at all", "damaged"),
        (gzip.compress(b"\x00\x00\x08\x01"), "expected an idx file of bytes with 3"),
        (idx(np.zeros((5, 28, 28), np.uint8))[:-20], "damaged"),
        (idx(np.zeros((5, 20, 28), np.uint8)), "expected 28 x 28 pixels"),
        (idx(np.zeros((4, 28, 28), np.uint8)), r"\(4, 28, 28\) for 5 labels"),
        (
            gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 28, 28)),
            "expected no more than 47,040,000 bytes",
        ),
        (
            gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">3I", 5, 28, 28) + b"x"),
            "got 1 bytes, expected the 3920",
        ),
    ],
    ids=[
        "empty",
        "no gzip",
        "short header",
        "cut",
        "other size",
        "too few",
        "too many",
        "too short",
    ],
)
def test_broken_idx_files(tmp_path, generator, content, message):
    write_mnist(tmp_path, generator)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(ArchiveError, match=message):
        prepare("mnist", tmp_path, tmp_path / "tfds", check=False)


def test_a_digit_out_of_range(tmp_path, generator):
    write_mnist(tmp_path, generator)
    labels = np.asarray([0, 1, 10, 2, 3], np.uint8)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    with pytest.raises(ArchiveError, match="the label 10 in record 2, expected 0 to 9"):
        prepare("mnist", tmp_path, tmp_path / "tfds", check=False)


def test_an_imagenet_of_other_classes_or_names(tmp_path):
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "w") as outer:
        add(outer, "n00000000.tar", b"")
    with pytest.raises(ArchiveError, match=r"unknown classes: \['n00000000'\]"):
        prepare("imagenet2012", tmp_path, tmp_path, check=False)
    (tmp_path / "ILSVRC2012_img_train.tar").unlink()
    with tarfile.open(tmp_path / "ILSVRC2012_img_val.tar", "w") as archive:
        add(archive, "holiday.JPEG", jpeg((1, 2, 3)))
    with pytest.raises(ArchiveError, match=r"ILSVRC2012_val_00000001.JPEG"):
        prepare("imagenet2012", tmp_path, tmp_path, check=False)


def test_the_command(tmp_path, generator, capsys):
    write_mnist(tmp_path, generator)
    command = ["prepare", "mnist", "--from", str(tmp_path), "--data-dir", str(tmp_path)]
    assert cli.main(command) == 2
    assert "--no-check takes it as it is" in capsys.readouterr().err
    assert cli.main([*command, "--no-check", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["num_examples"] == {"train": 5, "test": 3}
    assert cli.main([*command, "--no-check", "--overwrite"]) == 0
    assert "5 in train, 3 in test" in capsys.readouterr().out


def test_a_missing_set_says_how_to_prepare_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="cnn-jax prepare mnist --from PATH"):
        data.load_dataset("mnist", "train", data_dir=tmp_path)


def test_preparing_imports_no_tensorflow(tmp_path, generator):
    write_mnist(tmp_path, generator)
    program = (
        "import sys\nfrom cnn_jax.data.prepare import prepare\n"
        "prepare('mnist', sys.argv[1], sys.argv[1], check=False)\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


def with_field(content, start, value):
    """A header with another field, and a sum that fits."""
    block = bytearray(content)
    block[start : start + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block[:512])


LONG_NAME = header("././@LongLink", 512, tarfile.GNUTYPE_LONGNAME) + b"x" * 512
PAX = b"30 size=-1000000000000000000\n30 GNU.sparse.major=1\n"


@pytest.mark.parametrize(
    "content",
    [
        5000 * LONG_NAME + header("a.jpeg", 0),
        5000 * (header("x", 512, tarfile.XHDTYPE) + bytes(512)) + header("a.jpeg", 0),
        header("x", 512, tarfile.GNUTYPE_LONGNAME),
        header("x", 2**62, tarfile.GNUTYPE_LONGNAME),
        header("x", len(PAX), tarfile.XHDTYPE) + PAX.ljust(512, b"\0"),
        with_field(header("a.jpeg", 0), 0, b"caf\xe9.jpeg"),
        with_field(header("a.jpeg", 0), 0, b"\x1b[31m.jpeg"),
        with_field(header("a.jpeg", 0), 124, b"9" * 12),
        with_field(header("x", 0, tarfile.GNUTYPE_SPARSE), 386, b"\xff" * 96),
    ],
    ids=range(9),
)
def test_headers_that_tarfile_trips_over(tmp_path, content):
    path = tmp_path / "images.tar"
    path.write_bytes(content + END)
    with pytest.raises(ArchiveError, match=rf"^{path}: "):
        archives.index_members(path, suffix=".jpeg")
    packed = tmp_path / "cifar-10-binary.tar.gz"
    packed.write_bytes(gzip.compress(content + END))
    with pytest.raises(ArchiveError, match=rf"^{packed}: "):
        archives.read_member(packed, "batches.meta.txt", most=10**7)


def test_more_members_than_an_archive_has(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_MOST_MEMBERS", 100)
    path = tmp_path / "images.tar"
    path.write_bytes(b"".join(header(f"{n}.jpeg", 0) for n in range(101)) + END)
    with pytest.raises(ArchiveError, match="got more than 100 members"):
        archives.index_members(path, suffix=".jpeg")


@pytest.mark.parametrize("name", ["ILSVRC2012_val_\u00b2.JPEG", "x_" + "9" * 5000])
def test_numbers_that_are_none(tmp_path, name):
    archive = tmp_path / "ILSVRC2012_img_val.tar"
    with tarfile.open(archive, "w") as file:
        add(file, name if name.endswith("JPEG") else f"{name}.JPEG", jpeg((0, 0, 0)))
    with pytest.raises(ArchiveError, match=r"expected names such as ILSVRC2012_val_"):
        prepare("imagenet2012", tmp_path, tmp_path / "tfds", check=False)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (b"class \xe9\n" * 10, "bytes that are not UTF-8"),
        (b"class\n" * 10, "got 10 class names, 1 of them different, expected 10"),
    ],
)
def test_names_of_classes_in_an_archive(tmp_path, generator, names, message):
    rows = cifar_rows(generator, 2, [10]).tobytes()
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        add(archive, "cifar/batches.meta.txt", names)
        for number in range(1, 6):
            add(archive, f"cifar/data_batch_{number}.bin", rows)
        add(archive, "cifar/test_batch.bin", rows)
    with pytest.raises(ArchiveError, match=rf"batches\.meta\.txt: .*{message}"):
        prepare("cifar10", tmp_path, tmp_path / "tfds", check=False)


def test_an_archive_that_is_none_by_the_time_it_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArchiveError, match=r"pipe: got a named pipe"):
        archives.index_members(tmp_path / "pipe", suffix=".jpeg")
    with pytest.raises(ArchiveError, match=r"pipe: got a named pipe"):
        archives.read_idx(tmp_path / "pipe", rank=1, most=100)
    with pytest.raises(ArchiveError, match=rf"^{tmp_path}: cannot be read: Is a direc"):
        archives.read_member(tmp_path, "x", most=100)


@pytest.fixture
def small_files():
    """Files may have 4 KiB, no more: this process's disk is full at once."""
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, old[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)


def run_prepare(tmp_path, *options):
    places = ["--from", str(tmp_path), "--data-dir", str(tmp_path / "tfds")]
    return cli.main(["prepare", "cifar10", *places, "--no-check", *options])


@pytest.mark.parametrize("options", [[], ["--processes", "2"]])
def test_a_full_disk_is_one_sentence(tmp_path, generator, capsys, request, options):
    write_cifar10(tmp_path, generator)
    request.getfixturevalue("small_files")
    assert run_prepare(tmp_path, *options) == 1
    (line,) = capsys.readouterr().err.splitlines()
    place = tmp_path / "tfds" / "cifar10" / "3.0.2"
    assert line.startswith(f"cnn-jax: error: {place}: cannot be written: ")
    assert list(place.parent.iterdir()) == []


class Killer:
    """A shard that ends the worker to which it is sent."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_worker_that_is_killed_is_one_sentence(tmp_path, capsys, monkeypatch):
    (tmp_path / "cifar-10-binary.tar.gz").touch()
    killing = dataclasses.replace(
        RECIPES["cifar10"],
        shards=lambda source, bar: {"train": [Killer(), Killer()]},
    )
    monkeypatch.setitem(RECIPES, "cifar10", killing)
    assert run_prepare(tmp_path, "--processes", "2") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "3.0.2: a worker process was killed, as the system does when" in line
    assert list((tmp_path / "tfds" / "cifar10").iterdir()) == []


class Half:
    """A shard whose archive cannot be read."""

    def records(self):
        raise ArchiveError("train.bin: got half a record")


def test_a_shard_that_fails_ends_those_that_wait(
    tmp_path, generator, capsys, monkeypatch
):
    write_cifar10(tmp_path, generator)
    failing = dataclasses.replace(
        RECIPES["cifar10"],
        shards=lambda source, bar: {"train": [Half() for _ in range(9)]},
    )
    monkeypatch.setitem(RECIPES, "cifar10", failing)
    assert run_prepare(tmp_path, "--processes", "2") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "cnn-jax: error: train.bin: got half a record"
    assert list((tmp_path / "tfds" / "cifar10").iterdir()) == []
