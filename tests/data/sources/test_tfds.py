"""Reading datasets: bundled, prepared on disk, and not there at all."""

import concurrent.futures
import json
import multiprocessing
import operator
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from cnn_jax.data import ImageError, load_dataset, open_source
from cnn_jax.data.sources.tfds import tfds_directory

ROOT = pathlib.Path(__file__).parents[3]
REAL = pathlib.Path(os.environ.get("CNN_JAX_DATA") or ROOT / ".." / "shared") / "tfds"

# A prepared set with an image size per example, read back by name alone.
BUILD = """
import io, sys
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

class Shapes(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["flat", "tall", "big"]),
            }),
            supervised_keys=("image", "label"),
        )
    def _split_generators(self, manager):
        return {"train": self._generate_examples()}
    def _generate_examples(self):
        for index, (height, width) in enumerate([(4, 6), (4, 6), (8, 5), (40, 40)]):
            pixels = np.full((height, width, 3), 10 * index + 5, np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            file.seek(0)
            yield index, {"image": file, "label": [0, 0, 1, 2][index]}

builder = Shapes(data_dir=sys.argv[1], file_format="array_record")
builder.download_and_prepare()
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A directory with a small prepared TFDS set named "shapes"."""
    directory = tmp_path_factory.mktemp("tfds")
    subprocess.run([sys.executable, "-c", BUILD, str(directory)], check=True)
    return directory


def require_real(name):
    if not (REAL / name).is_dir():
        pytest.skip(
            f"no {name} in {REAL}; set CNN_JAX_DATA to the parent of tfds/{name}"
        )
    return REAL


def test_digits_are_split_by_class_into_disjoint_parts():
    train, test = (load_dataset("digits", split) for split in ("train", "test"))
    assert len(train) + len(test) == 1797
    assert train.image_shape == test.image_shape == (32, 32, 1)
    shares = np.bincount(test.labels) / np.bincount(
        np.concatenate([train.labels, test.labels])
    )
    assert np.all(np.abs(shares - 0.2) < 0.01)
    images = [{image.tobytes() for image in each.images} for each in (train, test)]
    assert not images[0] & images[1]
    # Full ink stays full ink: scans have 16 levels, images 255.
    assert train.images.max() == 255
    assert load_dataset("digits", "test").fingerprint == test.fingerprint


def test_digits_keep_their_own_size_on_request():
    import sklearn.datasets

    test = load_dataset("digits", "test", image_size=8)
    scans = sklearn.datasets.load_digits()
    zeros = np.flatnonzero(scans.target == 0)[4::5]
    np.testing.assert_array_equal(
        test.images[test.labels == 0][..., 0],
        np.round(scans.images[zeros] / 16 * 255).astype(np.uint8),
    )


def test_a_prepared_set_is_read_as_tfds_reads_it(prepared):
    import tensorflow_datasets as tfds

    # Larger than every image, so that each is resized or padded but none is cut.
    ours = load_dataset("shapes", "train", data_dir=prepared, image_size=40)
    theirs = list(tfds.data_source("shapes", split="train", data_dir=prepared))
    assert ours.class_names == ("flat", "tall", "big")
    assert ours.image_shape == (40, 40, 3)
    np.testing.assert_array_equal(ours.labels, [record["label"] for record in theirs])
    np.testing.assert_array_equal(
        ours.images[:, 20, 20], [record["image"][2, 2] for record in theirs]
    )


def test_images_of_several_sizes_need_one_size_to_be_named(prepared):
    with pytest.raises(ValueError, match="images of one size; pass image_size"):
        load_dataset("shapes", "train", data_dir=prepared)


def test_images_are_padded_when_close_and_resized_otherwise(prepared):
    dataset = load_dataset("shapes", "train", data_dir=prepared, image_size=8)
    by_value = {image[4, 4, 0]: image[..., 0] for image in dataset.images}
    assert dataset.image_shape == (8, 8, 3)
    # 8x5 has too few columns to be padded, 40x40 too many pixels: both are resized,
    # and a constant image stays constant. So is 4x6.
    for value in (5, 15, 25, 35):
        assert np.all(by_value[value] == value)
    near = load_dataset("shapes", "train", data_dir=prepared, image_size=48)
    big = near.images[near.labels == 2][0, ..., 0]
    assert np.all(big[4:-4, 4:-4] == 35)
    assert big.sum() == 35 * 40 * 40


def test_labels_out_of_range_are_found_in_the_source(prepared, tmp_path):
    shutil.copytree(prepared / "shapes", tmp_path / "shapes")
    features = next(tmp_path.rglob("features.json"))
    content = json.loads(features.read_text())
    content["featuresDict"]["features"]["label"]["classLabel"]["numClasses"] = "2"
    features.write_text(json.dumps(content))
    next(tmp_path.rglob("label.labels.txt")).write_text("flat\ntall\n")
    with pytest.raises(ValueError, match="labels from 0 to 2, expected 0 to 1"):
        load_dataset("shapes", "train", data_dir=tmp_path, image_size=8)


def test_an_unknown_split_names_those_there_are(prepared):
    with pytest.raises(ValueError, match=r"'tain'.*\['train'\] of 'shapes'"):
        load_dataset("shapes", "tain", data_dir=prepared)
    with pytest.raises(ValueError, match="expected 'train' or 'test'"):
        load_dataset("digits", "validation")


def test_an_empty_split_is_refused(prepared):
    with pytest.raises(ValueError, match=r"'train\[:0\]'.*\(.*0 length\)"):
        load_dataset("shapes", "train[:0]", data_dir=prepared)


def test_a_missing_set_says_where_it_was_sought_and_how_to_get_it(
    prepared, tmp_path, monkeypatch
):
    with pytest.raises(FileNotFoundError) as error:
        load_dataset("shape", "train", data_dir=prepared)
    message = str(error.value)
    assert str(prepared / "shape") in message
    assert "Did you mean 'shapes'?" in message
    assert f"tfds build shape --data_dir {prepared}" in message
    monkeypatch.setenv("CNN_JAX_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "tfds" / "mnist")):
        load_dataset("mnist", "train")


def test_a_set_in_another_file_format_is_named_as_such(prepared, tmp_path):
    shutil.copytree(prepared / "shapes", tmp_path / "shapes")
    info = next(tmp_path.rglob("dataset_info.json"))
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(FileNotFoundError, match="not as array_record"):
        load_dataset("shapes", "train", data_dir=tmp_path)


def open_shapes(directory, split="train"):
    return open_source("shapes", split, data_dir=directory)


def test_sources_are_read_from_threads_and_other_processes(prepared, folder):
    sources = [
        open_shapes(prepared),
        open_source(f"folder:{folder}", "train"),
        open_source("synthetic:4x4x3", "train"),
    ]
    shapes = sources[0]
    again = pickle.loads(pickle.dumps(shapes))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = pool.map(again.__getitem__, list(range(4)) * 25)
        assert list(found) == [shapes[index] for index in range(4)] * 25
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        for source in sources:
            for found in pool.map(operator.getitem, [source] * 2, (1, 3)):
                index = 1 if found.origin == source[1].origin else 3
                assert found.label == source[index].label
                np.testing.assert_array_equal(
                    np.frombuffer(found.image, np.uint8),
                    np.frombuffer(source[index].image, np.uint8),
                )
            assert pool.submit(len, source).result() == len(source)


def test_a_loop_over_a_source_ends(prepared, folder):
    for source in (
        open_shapes(prepared),
        open_shapes(prepared, "train[1:3]"),
        open_source(f"folder:{folder}", "test"),
        open_source("synthetic:4x4x3", "test"),
        open_source("digits", "test"),
    ):
        assert len(list(source)) == len(source)
        with pytest.raises(IndexError):
            source[len(source)]


def find_shard(directory):
    return next(pathlib.Path(directory).rglob("*array_record-*"))


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_the_fingerprint_sees_content_split_and_class_names(prepared, tmp_path):
    before = open_shapes(prepared).fingerprint
    copy = tmp_path / "copy"
    shutil.copytree(prepared, copy)
    assert open_shapes(copy).fingerprint == before
    parts = [open_shapes(copy, f"train[{part}]") for part in (":2", "2:")]
    assert len({before, *(part.fingerprint for part in parts)}) == 3
    names = next(copy.rglob("label.labels.txt"))
    names.write_text(names.read_text().replace("tall", "high"))
    assert open_shapes(copy).fingerprint != before
    names.write_text(names.read_text().replace("high", "tall"))
    assert open_shapes(copy).fingerprint == before
    flip(find_shard(copy), find_shard(copy).read_bytes().index(b"IDAT") + 8)
    assert open_shapes(copy).fingerprint != before


def test_a_damaged_record_is_an_image_error_that_names_it(prepared, tmp_path):
    shutil.copytree(prepared / "shapes", tmp_path / "shapes")
    shard = find_shard(tmp_path)
    flip(shard, shard.read_bytes().index(b"IDAT") + 8)
    source = open_shapes(tmp_path)
    assert source.features.encoded
    with pytest.raises(
        ImageError, match=r"shapes train\[0\]: the record cannot be read: .*mismatch"
    ):
        source[0]
    whole = open_shapes(prepared)
    assert [source[index] for index in (1, 2, 3)] == [
        whole[index] for index in (1, 2, 3)
    ]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ImageError, match=r"train\[3\]: the record cannot be read"):
        open_shapes(tmp_path)[3]


def test_a_bucket_stays_a_bucket(monkeypatch):
    assert os.fspath(tfds_directory("gs://bucket/sets")) == "gs://bucket/sets"
    monkeypatch.setenv("CNN_JAX_DATA", "gs://bucket/sets")
    assert os.fspath(tfds_directory(None)) == "gs://bucket/sets/tfds"


def test_sets_are_read_where_tensorflow_cannot_be_imported(prepared, tmp_path):
    script = """
        import sys

        # As if it were not installed. With None in sys.modules, TFDS would take it for
        # loaded; an error while it is sought would reach those who merely ask.
        class Without:
            def __init__(self, finder):
                self.finder = finder

            def __getattr__(self, name):
                return getattr(self.finder, name)

            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] != "tensorflow":
                    return self.finder.find_spec(name, path, target)

        sys.meta_path[:] = map(Without, sys.meta_path)
        import tensorflow_datasets as tfds
        from cnn_jax.data import open_source

        prepared, scratch = sys.argv[1:]
        source = open_source("shapes", "train", data_dir=prepared)
        print(len(source), type(source[0].image).__name__)
        with tfds.testing.mock_data(num_examples=5, data_dir=scratch):
            source = open_source("imagenet2012", "train", data_dir=scratch)
            print(len(source), source[4].image.dtype, len(source.class_names))
            more = open_source("imagenet2012", "validation", data_dir=scratch)
            assert len({source.fingerprint, more.fingerprint}) == 2
            print(len(source.fingerprint))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(prepared), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()  # among TFDS's words on TensorFlow
    assert {"4 bytes", "5 uint8 1000", "64"} <= set(lines)


@pytest.mark.parametrize("module", ["tensorflow", "torch"])
def test_reading_imports_no_other_framework_even_if_installed(
    prepared, tmp_path, module
):
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text("print('imported')")
    script = """
        import sys
        sys.path[:0] = [sys.argv[2], "."]
        from cnn_jax.data import load_dataset

        dataset = load_dataset("shapes", "train", data_dir=sys.argv[1], image_size=8)
        print(len(dataset))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(prepared), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.stdout.split() == ["4"]


def test_real_cifar10_reads_completely():
    test = load_dataset("cifar10", "test", data_dir=require_real("cifar10"))
    assert test.images.shape == (10_000, 32, 32, 3)
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert test.class_names[:3] == ("airplane", "automobile", "bird")
    # Published means and deviations of CIFAR-10, which re-encoding hardly moves.
    mean, std = test.channel_statistics
    np.testing.assert_allclose(mean, (0.4914, 0.4822, 0.4465), atol=0.01)
    np.testing.assert_allclose(std, (0.2470, 0.2435, 0.2616), atol=0.01)


def test_real_mnist_is_padded_without_touching_a_pixel():
    directory = require_real("mnist")
    small = load_dataset("mnist", "test[:300]", data_dir=directory)
    padded = load_dataset("mnist", "test[:300]", data_dir=directory, image_size=32)
    assert small.image_shape == (28, 28, 1)
    assert padded.image_shape == (32, 32, 1)
    np.testing.assert_array_equal(padded.images[:, 2:30, 2:30], small.images)
    assert padded.images.sum(dtype=np.int64) == small.images.sum(dtype=np.int64)
