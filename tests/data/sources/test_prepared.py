"""Metadata of TFDS sets that are damaged, or that somebody made to do harm."""

import io
import json
import os
import pathlib
import subprocess
import sys

import pytest
from PIL import Image

from cnn_jax.data import ImageError, open_source
from cnn_jax.data.prepare import recipe, writing
from cnn_jax.files import FileError

ROOT = pathlib.Path(__file__).parents[3]
CLASSES = ["flat", "tall"]


class Shades:
    """Four images of two classes."""

    def records(self):
        for shade in range(4):
            file = io.BytesIO()
            Image.new("RGB", (6, 4), (shade, 0, 0)).save(file, "PNG")
            yield {"image": file.getvalue(), "label": shade % 2}


def write_set(directory, monkeypatch, name="shades"):
    """Prepares a small set; returns the directory of its version."""
    (directory / "published").mkdir()
    (directory / "published" / "file").touch()
    shades = recipe.Recipe(
        name=name,
        version="1.2.3",
        files=(recipe.SourceFile("file", ""),),
        features=lambda source: recipe.labelled_image_features(
            (4, 6, 3), CLASSES, "png"
        ),
        shards=lambda source, bar: {"train": [Shades()]},
    )
    monkeypatch.setitem(writing.RECIPES, name, shades)
    source = directory / "published"
    return writing.prepare(name, source, directory / "sets", check=False).directory


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """The directory of a version of a small set."""
    return write_set(tmp_path, monkeypatch)


def open_set(prepared, name="shades", split="train"):
    return open_source(name, split, data_dir=prepared.parents[1])


def change(path, changed):
    content = json.loads(path.read_text())
    changed(content)
    path.write_text(json.dumps(content))


def features_of(content):
    return content["featuresDict"]["features"]


EVIL = "evil_features.Evil"


def name_class(content):
    content["pythonClassName"] = EVIL


def name_nested_class(content):
    features_of(content)["label"]["pythonClassName"] = EVIL


def name_class_otherwise(content):
    feature = features_of(content)["label"]
    feature["python_class_name"] = feature.pop("pythonClassName")
    feature["python_class_name"] = EVIL


def name_inner_class(content):
    inner = {"pythonClassName": EVIL, "text": {}}
    features_of(content)["more"] = {
        "pythonClassName": "tensorflow_datasets.core.features.sequence_feature."
        "Sequence",
        "sequence": {"feature": inner},
    }


def name_legacy_class(content):
    content.clear()
    content.update({"type": EVIL, "content": {}})


@pytest.mark.parametrize("name", ["shades", "mnist"])
@pytest.mark.parametrize(
    "changed",
    [
        name_class,
        name_nested_class,
        name_class_otherwise,
        name_inner_class,
        name_legacy_class,
    ],
)
def test_a_set_imports_no_module(tmp_path, monkeypatch, changed, name):
    marker = tmp_path / "imported"
    code = tmp_path / "code"
    code.mkdir()
    (code / "evil_features.py").write_text(f"open({str(marker)!r}, 'w')")
    monkeypatch.syspath_prepend(code)
    prepared = write_set(tmp_path, monkeypatch, name)
    assert len(open_set(prepared, name)) == 4
    change(prepared / "features.json", changed)
    with pytest.raises(FileError, match=r"features\.json: got the feature class 'evil"):
        open_set(prepared, f"{name}:1.2.3")
    assert not marker.exists()


def test_nor_does_its_description(tmp_path, monkeypatch):
    marker = tmp_path / "imported"
    code = tmp_path / "code"
    code.mkdir()
    (code / "evil_features.py").write_text(f"open({str(marker)!r}, 'w')")
    monkeypatch.syspath_prepend(code)
    prepared = write_set(tmp_path, monkeypatch)
    features = json.loads((prepared / "features.json").read_text())
    name_nested_class(features)
    change(prepared / "dataset_info.json", lambda info: info.update(features=features))
    with pytest.raises(FileError, match=r"dataset_info\.json: got the feature class"):
        open_set(prepared)
    assert not marker.exists()


def test_the_sets_of_tfds_are_read_without_their_code(tmp_path, monkeypatch):
    prepared = write_set(tmp_path, monkeypatch, "mnist")
    script = (
        "import sys; from cnn_jax.data import open_source; "
        "print(len(open_source('mnist', 'train', data_dir=sys.argv[1]))); "
        "print([m for m in sys.modules if m.startswith("
        "('tensorflow_datasets.image_', 'tensorflow_datasets.datasets'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(prepared.parents[1])],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.stdout.splitlines()[-2:] == ["4", "[]"]


@pytest.mark.parametrize(
    "name",
    [
        *("kaggle:mnist", "huggingface:mnist", "os.path", "../x", "x/../../y", ""),
        *("mnist/a=1", "gs://bucket/mnist", "/tmp/set", "mnist:latest", "a/b/c"),
    ],
)
def test_names_that_would_run_or_read_something_else(tmp_path, name):
    with pytest.raises(ValueError, match="expected a TFDS name"):
        open_source(name, "train", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["photos", "./photos", "absolute"])
def test_a_directory_in_the_place_of_a_name_gets_a_hint(name, tmp_path, monkeypatch):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    name = str(tmp_path / "photos") if name == "absolute" else name
    with pytest.raises((ValueError, FileNotFoundError)) as failure:
        open_source(name, "train", data_dir=tmp_path / "sets")
    assert f"write 'folder:{name}'" in str(failure.value)
    with pytest.raises((ValueError, FileNotFoundError)) as failure:
        open_source(f"{name}s", "train", data_dir=tmp_path / "sets")
    assert "folder:" not in str(failure.value).replace("folder:PATH", "")


def test_the_newest_version_and_those_that_are_named(prepared):
    newer = prepared.with_name("1.10.0")
    newer.mkdir()
    for path in prepared.iterdir():
        (newer / path.name).write_bytes(path.read_bytes())
    change(newer / "dataset_info.json", lambda info: info.update(version="1.10.0"))
    (newer / "label.labels.txt").write_text("small\nlarge\n")
    assert open_set(prepared).class_names == ("small", "large")
    assert open_set(prepared, "Shades:1.*.*").class_names == ("small", "large")
    assert open_set(prepared, "shades:1.2.*").class_names == ("flat", "tall")
    with pytest.raises(FileNotFoundError, match=r"expected a prepared TFDS set"):
        open_set(prepared, "shades:2.0.0")


def test_a_configuration_is_a_directory(prepared):
    configured = prepared.parent / "small"
    configured.mkdir()
    prepared.rename(configured / "1.2.3")
    change(
        configured / "1.2.3" / "dataset_info.json",
        lambda info: info.update(configName="small"),
    )
    assert len(open_set(prepared, "shades/small")) == 4
    (prepared.parent / ".config").mkdir()
    metadata = prepared.parent / ".config" / "metadata.json"
    metadata.write_text('{"default_config_name": "small"}')
    assert len(open_set(prepared)) == 4
    metadata.write_text('{"default_config_name": "../../elsewhere"}')
    with pytest.raises(FileError, match=r"metadata\.json: got the configuration"):
        open_set(prepared)


FILES = ("features.json", "dataset_info.json", "label.labels.txt", "SHARD")


def find(prepared, name):
    if name == "SHARD":
        return next(prepared.glob("*array_record-*"))
    return prepared / name


@pytest.mark.parametrize("name", FILES)
def test_special_files_are_not_read(prepared, name):
    path = find(prepared, name)
    content = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(FileError, match="got a named pipe"):
        open_set(prepared)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(FileError, match="got a device"):
        open_set(prepared)
    path.unlink()
    elsewhere = prepared.parents[1] / "elsewhere"
    elsewhere.write_bytes(content)
    path.symlink_to(elsewhere)
    assert len(open_set(prepared)) == 4


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"{}", b"\xff\xfe{", b'{"splits": 3}'),
        *(b'{"featuresDict": []}', b"[" * 100_000, b'{"a":' * 900 + b"1" + b"}" * 900),
    ],
)
def test_damaged_metadata(prepared, name, content):
    (prepared / name).write_bytes(content)
    # Of one without a format, the set is not there as array_record.
    with pytest.raises((ValueError, FileNotFoundError), match="shades"):
        open_set(prepared)


def test_metadata_of_another_length(prepared):
    with open(prepared / "features.json", "a") as file:
        file.write(" " * 2**22)
    with pytest.raises(FileError, match=r"features\.json: got 4,\d+,\d+ bytes"):
        open_set(prepared)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"flat\nt\xe9ll\n", "damaged file"),
        (b"flat\n", "1 names of classes, expected 2"),
        (b"", "0 names of classes"),
    ],
)
def test_names_of_classes_are_not_lost(prepared, content, found):
    (prepared / "label.labels.txt").write_bytes(content)
    with pytest.raises(FileError, match=rf"label\.labels\.txt: got .*{found}"):
        open_set(prepared)


def test_two_classes_may_have_one_name(prepared):
    (prepared / "label.labels.txt").write_text("crane\ncrane\n")
    assert open_set(prepared).class_names == ("crane", "crane")


def set_template(template):
    def changed(info):
        info["splits"][0]["filepathTemplate"] = template

    return changed


def set_length(length):
    def changed(info):
        info["splits"][0]["shardLengths"] = [str(length)]

    return changed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (set_template("/etc/passwd"), "got the file '/etc/passwd' of a split"),
        (set_template("../../{SPLIT}-{SHARD_INDEX}"), "expected files in the same"),
        (set_length(10**9), "got 1,000,000,000 records in "),
        (set_length(2**62), "records in "),
        (set_length(-4), "."),
    ],
)
def test_files_that_the_metadata_name(prepared, changed, message):
    change(prepared / "dataset_info.json", changed)
    with pytest.raises(ValueError, match=message):
        open_set(prepared)


def set_feature(name, kind, **values):
    return lambda content: features_of(content)[name][kind].update(values)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (set_feature("label", "classLabel", numClasses=str(10**12)), "classes, exp"),
        (set_feature("label", "classLabel", numClasses="0"), "names of classes|0 clas"),
        (set_feature("image", "image", shape={"dimensions": ["4"] * 2}), "Image sha"),
        (
            set_feature("image", "image", shape={"dimensions": ["4", "6", "4"]}),
            r"images of shape \(4, 6, 4\)",
        ),
        (
            set_feature("image", "image", shape={"dimensions": [*["99999"] * 2, "3"]}),
            "no more than 89,478,485 pixels",
        ),
        (set_feature("image", "image", dtype="complex512"), "the dtype 'complex512'"),
    ],
)
def test_implausible_features(prepared, changed, message):
    (prepared / "label.labels.txt").unlink()
    change(prepared / "features.json", changed)
    with pytest.raises(ValueError, match=message):
        open_set(prepared)


def test_other_formats_are_not_read(prepared):
    def changed(info):
        info["fileFormat"] = "parquet"

    change(prepared / "dataset_info.json", changed)
    with pytest.raises(FileNotFoundError, match="not as array_record"):
        open_set(prepared)
    older = prepared.with_name("1.0.0")
    older.mkdir()
    (older / "dataset_info.json").write_text('{"fileFormat": "array_record"}')
    with pytest.raises(ValueError, match=r"1\.2\.3: got files of the format 'parquet'"):
        open_set(prepared)


def rewrite(prepared, records):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(os.fspath(find(prepared, "SHARD")), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def example(**features):
    from tensorflow_datasets.proto import tf_example_pb2

    found = tf_example_pb2.Example()
    for name, value in features.items():
        if isinstance(value, bytes):
            found.features.feature[name].bytes_list.value.append(value)
        else:
            found.features.feature[name].int64_list.value.append(value)
    return found.SerializeToString()


@pytest.mark.parametrize(
    "record",
    [b"", b"\xff" * 50, example(image=b"x"), example(image=3, label=1)],
    ids=["empty", "bytes", "no label", "a number"],
)
def test_a_record_of_something_else_is_a_bad_image(prepared, record):
    good = example(image=b"x", label=1)
    rewrite(prepared, [good, record, good, good])
    source = open_set(prepared)
    assert source[0].image == b"x"
    with pytest.raises(ImageError, match=r"shades train\[1\]: the record cannot be r"):
        source[1]


def test_a_record_that_is_larger_than_an_image(prepared, monkeypatch):
    from cnn_jax.data.sources import tfds

    rewrite(prepared, [example(image=b"x" * size, label=1) for size in (9, 99, 9, 9)])
    monkeypatch.setattr(tfds, "MAX_BYTES", 50)
    source = open_set(prepared)
    assert len(source[0].image) == 9
    with pytest.raises(ImageError, match=r"train\[1\]: got 99 bytes, expected no more"):
        source[1]


def test_a_set_without_features_is_one_sentence(prepared):
    (prepared / "features.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"found no features\.json with the set"
    ):
        open_set(prepared)
