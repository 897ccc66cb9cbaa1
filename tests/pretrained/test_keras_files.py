"""Keras's HDF5 files, written here in its layouts; `test_parity` has it write them."""

import os
import sys

import chex
import numpy as np
import pytest
from references import ours

import cnn_jax
from cnn_jax.pretrained.files import open_weights

NAME = "mobilenet_v1_0_25"

KINDS = {
    ("kernel",): "conv2d",
    ("kernel", "bias"): "conv2d",
    ("depthwise_kernel", "pointwise_kernel"): "separable_conv2d",
    ("gamma", "beta", "moving_mean", "moving_variance"): "batch_normalization",
}


@pytest.fixture(scope="module")
def arrays():
    """A MobileNet's arrays under the names that Keras gives its variables."""
    arrays = ours.reference_arrays(NAME)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def variables(arrays):
    return cnn_jax.load_pretrained(NAME, arrays)[0]


@pytest.fixture
def h5py():
    return pytest.importorskip("h5py")


def by_layer(arrays):
    layers = {}
    for name, array in arrays.items():
        layer, _, leaf = name.rpartition("/")
        layers.setdefault(layer, {})[leaf] = array
    return layers


def write(h5py, path, arrays):
    """Writes the layout of Keras 3, and what Keras writes beside weights."""
    counts = {}
    with h5py.File(path, "w") as file:
        for layer, leaves in by_layer(arrays).items():
            kind = KINDS[tuple(leaves)]
            count = counts[kind] = counts.get(kind, -1) + 1
            group = file.create_group(f"layers/{kind}{f'_{count}' * bool(count)}/vars")
            group.attrs["name"] = layer
            for number, array in enumerate(leaves.values()):
                group.create_dataset(str(number), data=array)
        file.create_group("layers/re_lu/vars").attrs["name"] = "conv1_relu"
        file["layers/dropout/seed_generator/vars/0"] = np.zeros(2, np.uint32)
        file["optimizer/vars/0"] = np.array(7)
    return path


def test_round_trip(h5py, arrays, variables, tmp_path):
    path = write(h5py, tmp_path / "mobile.weights.h5", arrays)
    loaded, report = cnn_jax.load_pretrained(NAME, path)
    chex.assert_trees_all_equal(loaded, variables)
    assert report.source == "keras"
    assert set(report.loaded) == set(arrays)
    assert set(report.ignored) == {
        "layers/dropout/seed_generator/vars/0",
        "optimizer/vars/0",
    }


@pytest.mark.parametrize("root", ["/", "model_weights"])
def test_the_layout_before_keras_3(root, h5py, arrays, variables, tmp_path):
    path = tmp_path / "mobile.h5"
    with h5py.File(path, "w") as file:
        group = file.require_group(root)
        layers = by_layer(arrays)
        group.attrs["layer_names"] = [*layers, "conv1_relu"]
        group.create_group("conv1_relu").attrs["weight_names"] = []
        for layer, leaves in layers.items():
            names = [f"{layer}/{leaf}:0" for leaf in leaves]
            group.create_group(layer).attrs["weight_names"] = names
            for name, array in zip(names, leaves.values(), strict=True):
                group[layer][name] = array
    loaded, _ = cnn_jax.load_pretrained(NAME, path)
    chex.assert_trees_all_equal(loaded, variables)


def test_layers_that_keras_counted_are_counted_anew(h5py, tmp_path):
    """A second network in one session goes on where the first one stopped."""
    shapes = {"conv2d_10": 3, "conv2d_9": 2, "conv_pw_7": 4}
    arrays = {
        f"{name}/kernel": np.zeros((1, 1, 1, size), np.float32)
        for name, size in shapes.items()
    }
    path = write(h5py, tmp_path / "some.weights.h5", arrays)
    with open_weights(path) as weights:
        found = {name: array.shape[-1] for name, array in weights.arrays.items()}
    assert found == {"conv2d/kernel": 2, "conv2d_1/kernel": 3, "conv_pw_7/kernel": 4}


def refused(path, match):
    with pytest.raises(ValueError, match=match) as error:
        cnn_jax.load_pretrained(NAME, path)
    assert str(path) in str(error.value)


class TestBadFiles:
    @pytest.fixture
    def path(self, h5py, arrays, tmp_path):
        return write(h5py, tmp_path / "mobile.weights.h5", arrays)

    def test_truncated(self, path):
        path.write_bytes(path.read_bytes()[:-1000])
        refused(path, "damaged or not Keras's .*truncated")

    def test_no_hdf5(self, path):
        path.write_bytes(b"<!doctype html>" * 99)
        refused(path, "damaged or not Keras's .*signature")

    def test_layers_without_names(self, h5py, path):
        with h5py.File(path, "a") as file:
            del file["layers/conv2d/vars"].attrs["name"]
        refused(path, "layers/conv2d/vars has no layer's name: saved by an older")

    def test_two_layers_of_one_name(self, h5py, path):
        with h5py.File(path, "a") as file:
            file["layers/conv2d/vars"].attrs["name"] = "conv_pw_1"
        refused(path, "two layers are called conv_pw_1")

    def test_an_array_too_many_for_its_layer(self, h5py, path):
        with h5py.File(path, "a") as file:
            file["layers/conv2d/vars/1"] = np.zeros((2, 3))
        refused(path, r"unexpected: conv1/1 \(2, 3\)")

    def test_values_that_are_not_finite(self, h5py, path):
        with h5py.File(path, "a") as file:
            file["layers/conv2d/vars/0"][0, 0, 0, 0] = np.nan
        refused(path, r"not finite: conv1/kernel, 1 of 216 values")

    @pytest.mark.parametrize("shape", [(2**40,), (2**31, 2**31, 1, 1)])
    def test_an_array_of_any_size_is_not_read(self, shape, h5py, path):
        with h5py.File(path, "a") as file:
            del file["layers/conv2d/vars/0"]
            file["layers/conv2d/vars"].create_dataset(
                "0", shape, "f4", chunks=(1,) * len(shape)
            )
        refused(path, "missing: params/stem/conv/kernel")

    def test_pieces_larger_than_their_array(self, h5py, path):
        with h5py.File(path, "a") as file:
            del file["layers/conv2d/vars/0"]
            file["layers/conv2d/vars"].create_dataset(
                "0", (3, 3, 3, 8), "f4", chunks=(3, 3, 3, 2**20), maxshape=(None,) * 4
            )
        refused(path, "stored in pieces larger than itself")

    def test_arrays_of_other_files(self, h5py, path, tmp_path):
        other = tmp_path / "other"
        other.write_bytes(bytes(864))
        with h5py.File(path, "a") as file:
            del file["layers/conv2d/vars/0"]
            file["layers/conv2d/vars"].create_dataset(
                "0", (3, 3, 3, 8), "f4", external=[(str(other), 0, 864)]
            )
        refused(path, "/layers/conv2d/vars/0 is in another file")

    def test_links_to_other_files(self, h5py, path, arrays, tmp_path):
        other = write(h5py, tmp_path / "other.weights.h5", arrays)
        with h5py.File(path, "a") as file:
            del file["layers/conv2d/vars/0"]
            file["layers/conv2d/vars/0"] = h5py.ExternalLink(
                str(other), "layers/conv2d/vars/0"
            )
        refused(path, "missing: params/stem/conv/kernel")


class TestUnboundedWork:
    """Small files that would make HDF5, or what follows it, do endlessly much."""

    @pytest.fixture
    def older(self, h5py, tmp_path):
        path = tmp_path / "mobile.h5"
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = np.array([b"conv1"])
            file.create_group("conv1").attrs["weight_names"] = np.array([b"kernel"])
            file["conv1/kernel"] = np.zeros((3, 3, 3, 8), np.float32)
        return path

    def test_a_layer_that_is_listed_often(self, h5py, older):
        with h5py.File(older, "a") as file:
            file.attrs["layer_names"] = np.array([b"conv1"] * 5000)
        refused(older, "two layers are called conv1")

    def test_an_array_that_is_listed_often(self, h5py, older):
        with h5py.File(older, "a") as file:
            file["conv1"].attrs["weight_names"] = np.array([b"kernel"] * 5000)
        refused(older, "conv1 lists 5000 arrays, or one of them twice")

    def test_more_layers_than_models_have(self, h5py, older):
        with h5py.File(older, "w", libver="latest") as file:
            names = np.array([b"%d" % number for number in range(10_001)])
            file.attrs["layer_names"] = names
        refused(older, "the attribute layer_names has 10001 texts")

    def test_texts_that_are_all_one_long_text(self, h5py, older):
        with h5py.File(older, "a") as file:
            file["large"] = np.zeros(2**18, np.float32)
            file.attrs["layer_names"] = ["conv1", *map(str, range(500))]
        refused(older, "the attribute layer_names has 501 texts")

    @pytest.mark.parametrize("name", [[1.5, 2.5], np.zeros((2, 2)), 3])
    def test_names_that_are_no_text(self, name, h5py, older):
        with h5py.File(older, "a") as file:
            file.attrs["layer_names"] = name
        refused(older, "damaged or not Keras's")

    @pytest.mark.parametrize("place", ["conv1", "conv1/kernel"])
    @pytest.mark.parametrize("kind", ["external", "soft"])
    def test_links(self, kind, place, h5py, older, tmp_path):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)  # to open it is to wait
        with h5py.File(older, "a") as file:
            file.move(place, "elsewhere")
            file[place] = (
                h5py.SoftLink("/elsewhere")
                if kind == "soft"
                else h5py.ExternalLink(str(pipe), "elsewhere")
            )
        refused(older, "is a link")

    def test_the_root_is_a_link(self, h5py, older, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with h5py.File(older, "a") as file:
            file["model_weights"] = h5py.ExternalLink(str(tmp_path / "pipe"), "/")
        refused(older, "model_weights is a link")

    def test_a_virtual_array(self, h5py, older, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        layout = h5py.VirtualLayout((3, 3, 3, 8), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "pipe"), "a", (3, 3, 3, 8))
        with h5py.File(older, "a") as file:
            del file["conv1/kernel"]
            file["conv1"].create_virtual_dataset("kernel", layout)
        refused(older, "conv1/kernel is in another file")

    def test_groups_in_groups(self, h5py, tmp_path):
        path = tmp_path / "mobile.h5"
        with h5py.File(path, "w") as file:
            group = file
            for _ in range(2000):
                group = group.create_group("a")
        refused(path, "some deeper than 32")

    def test_groups_that_hold_each_other(self, h5py, tmp_path):
        path = tmp_path / "mobile.h5"
        with h5py.File(path, "w") as file:
            below = file.create_group("last")
            for number in range(30):
                group = file.create_group(f"group{number}")
                group["a"] = group["b"] = below
                below = group
        refused(path, "more than 40000 groups and arrays")

    def test_an_array_that_is_compressed_twice(self, h5py, tmp_path, arrays):
        path = write(h5py, tmp_path / "mobile.weights.h5", arrays)
        with h5py.File(path, "a") as file:
            del file["layers/conv2d/vars/0"]
            properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            properties.set_chunk((3, 3, 3, 8))
            properties.set_deflate(9)
            properties.set_deflate(9)
            h5py.h5d.create(
                file["layers/conv2d/vars"].id,
                b"0",
                h5py.h5t.IEEE_F32LE,
                h5py.h5s.create_simple((3, 3, 3, 8)),
                properties,
            )
        refused(path, r"is compressed by filters \[1, 1\]")

    def test_a_compressed_file_is_read(self, h5py, tmp_path, arrays, variables):
        path = write(h5py, tmp_path / "mobile.weights.h5", arrays)
        with h5py.File(path, "a") as file:
            array = file["layers/conv2d/vars/0"][()]
            del file["layers/conv2d/vars/0"]
            file["layers/conv2d/vars"].create_dataset(
                "0", data=array, compression="gzip", shuffle=True, fletcher32=True
            )
        loaded, _ = cnn_jax.load_pretrained(NAME, path)
        chex.assert_trees_all_equal(loaded, variables)


def test_without_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "some.weights.h5").write_bytes(b"anything")
    with pytest.raises(ImportError, match=r"pip install 'cnn_jax\[keras-files\]'"):
        cnn_jax.load_pretrained(NAME, tmp_path / "some.weights.h5")
