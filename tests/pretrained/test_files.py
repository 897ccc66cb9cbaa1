"""Files of every kind, and bad ones: clear errors, nothing run, memory bounded."""

import io
import json
import pathlib
import pickle
import resource
import struct
import sys
import tracemalloc
import zipfile

import chex
import jax
import numpy as np
import pytest
import safetensors.numpy

import cnn_jax

PATH = "params/c1/kernel"


def save(path, arrays):
    """Writes a file of the kind that the path's suffix says."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        safetensors.numpy.save_file(arrays, path)
    else:
        torch = pytest.importorskip("torch")
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        torch.save(
            {"state_dict": tensors, "epoch": 90},
            path,
            _use_new_zipfile_serialization=path.suffix == ".pth",
        )
    return path


@pytest.fixture(params=[".safetensors", ".npz", ".pth", ".pt"])
def file(request, tmp_path, lenet_arrays):
    """A good file of each kind; `.pt` is PyTorch's format before its zips."""
    return save(tmp_path / f"weights{request.param}", lenet_arrays)


def refused(path, match, **arguments):
    """Checks that a file is refused with the path in the message."""
    with pytest.raises(ValueError, match=match) as error:
        cnn_jax.load_pretrained("lenet5", path, **arguments)
    return str(error.value)


class TestEveryKind:
    def test_round_trip(self, file, lenet):
        for form in (file, str(file)):
            loaded, report = cnn_jax.load_pretrained("lenet5", form)
            chex.assert_trees_all_equal(loaded, lenet)
            assert report.provenance.file == file
            assert report.provenance.location == str(file)

    def test_truncated(self, file):
        file.write_bytes(file.read_bytes()[:-100])
        assert str(file) in refused(file, "got a")

    def test_cut_at_the_start(self, file):
        file.write_bytes(file.read_bytes()[:20])
        assert str(file) in refused(file, "got a")

    def test_empty(self, file):
        file.write_bytes(b"")
        assert str(file) in refused(file, "got a")

    def test_no_such_format(self, file):
        file.write_bytes(b"<!doctype html>not found" * 99)
        assert str(file) in refused(file, "got a")

    def test_values_are_checked(self, tmp_path, lenet_arrays, file):
        lenet_arrays["c5.weight"][0, 0, 0, 0] = np.nan
        refused(save(file, lenet_arrays), "not finite: c5.weight, 1 of 48000 values")


def test_there_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        cnn_jax.load_pretrained("lenet5", tmp_path / "nowhere.safetensors")


def test_another_suffix(tmp_path):
    (tmp_path / "weights.onnx").write_bytes(b"anything")
    refused(tmp_path / "weights.onnx", r"ends in '.onnx', expected one of .safetensors")


class TestSafetensorsHeaders:
    """Headers that claim what the file does not hold."""

    @pytest.mark.parametrize("claimed", [2**63, 2**40, 10**8 + 1, 10**4])
    def test_an_oversized_header(self, claimed, tmp_path):
        path = tmp_path / "weights.safetensors"
        path.write_bytes(struct.pack("<Q", claimed) + b"{}" + b" " * 100)
        with memory_below(2**20):
            refused(path, "damaged safetensors file .*header")

    @pytest.mark.parametrize(
        ("entries", "size"),
        [
            pytest.param([([2], 0, 8), ([2], 4, 12)], 12, id="overlapping"),
            pytest.param([([2], 0, 8), ([2], 0, 8)], 8, id="twice the same"),
            pytest.param([([2**40], 0, 2**42)], 8, id="beyond the end"),
            pytest.param([([2], 0, 8)], 16, id="not all of the file"),
            pytest.param([([2], 8, 0)], 8, id="backwards"),
            pytest.param([([2], -8, 0)], 8, id="negative"),
            pytest.param([([3], 0, 8)], 8, id="of another size than its shape"),
            pytest.param([([2**62, 4], 0, 0)], 0, id="more than 64 bits can count"),
        ],
    )
    def test_arrays_that_cannot_be_there(self, entries, size, tmp_path):
        path = tmp_path / "weights.safetensors"
        header = json.dumps(
            {
                f"c{number}.weight": {
                    "dtype": "F32",
                    "shape": shape,
                    "data_offsets": [start, end],
                }
                for number, (shape, start, end) in enumerate(entries, start=1)
            }
        ).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
        with memory_below(2**20):
            refused(path, "damaged safetensors file")


class TestNpz:
    def test_a_bomb_is_not_read(self, tmp_path, lenet_arrays):
        path = tmp_path / "weights.npz"
        lenet_arrays["c1.weight"] = np.zeros((2**24, 4), np.float32)
        np.savez_compressed(path, **lenet_arrays)
        del lenet_arrays
        assert path.stat().st_size < 2**20
        with memory_below(2**23):
            refused(path, r"mis-shaped: c1.weight \(16777216, 4\)")

    def test_a_last_layer_of_any_size_is_not_read(self, tmp_path, lenet_arrays):
        path = tmp_path / "weights.npz"
        lenet_arrays["output.weight"] = np.zeros((2**18, 84), np.float32)
        np.savez_compressed(path, **lenet_arrays)
        with memory_below(2**23):
            cnn_jax.load_pretrained(
                "lenet5", path, num_classes=3, key=jax.random.key(0)
            )

    @pytest.mark.parametrize("shape", [(2**40,), (2**62, 2**62), (-1, 4), (3,)])
    def test_a_header_that_does_not_fit_its_size(self, shape, tmp_path):
        content = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            content, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        with zipfile.ZipFile(tmp_path / "weights.npz", "w") as archive:
            archive.writestr("c1.weight.npy", content.getvalue() + bytes(16))
        with memory_below(2**20):
            refused(tmp_path / "weights.npz", "damaged npz.*c1.weight.npy claims")

    def test_pickled_arrays(self, tmp_path):
        marker = tmp_path / "marker"
        np.savez(tmp_path / "weights.npz", **{"c1.weight": np.array([Running(marker)])})
        refused(tmp_path / "weights.npz", "c1.weight.npy is pickled")
        assert not marker.exists()


class TestPickles:
    """Pickles that would create a file if anything unpickled them."""

    @pytest.fixture(params=["plain", "legacy", "zip"])
    def content(self, request, tmp_path):
        malice = Running(tmp_path / "marker")
        if request.param == "plain":
            return pickle.dumps({"c1.weight": malice}, protocol=2)
        if request.param == "legacy":
            # The numbers that PyTorch's files began with, then the state dict.
            parts = (0x1950A86A20F9469CFC6C, 1001, {}, {"c1.weight": malice}, [])
            return b"".join(pickle.dumps(part, protocol=2) for part in parts)
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(malice, protocol=2))
            archive.writestr("archive/version", "3\n")
            archive.writestr("archive/byteorder", "little")
        return content.getvalue()

    def test_they_would(self, tmp_path):
        pickle.loads(pickle.dumps(Running(tmp_path / "marker")))
        assert (tmp_path / "marker").exists()

    @pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pth.tar"])
    def test_pytorch_refuses_them(self, content, suffix, tmp_path):
        pytest.importorskip("torch")
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(content)
        refused(path, "does not read under weights_only=True.*could run")
        assert not (tmp_path / "marker").exists()

    def test_without_pytorch_nobody_tries(self, content, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        path = tmp_path / "weights.pth"
        path.write_bytes(content)
        with pytest.raises(ImportError, match=r"cnn_jax\[torch\].*cnn-jax convert"):
            cnn_jax.load_pretrained("lenet5", path)
        assert not (tmp_path / "marker").exists()

    @pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
    def test_under_another_name(self, content, suffix, tmp_path):
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(content)
        refused(path, "got a damaged")
        assert not (tmp_path / "marker").exists()


class TestPyTorch:
    @pytest.fixture(autouse=True)
    def torch(self):
        return pytest.importorskip("torch")

    def test_old_versions_are_not_trusted(self, torch, tmp_path, monkeypatch):
        path = save(tmp_path / "weights.pth", {"c1.weight": np.zeros(3, np.float32)})
        monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
        with pytest.raises(ImportError, match=r"got PyTorch 2.9.1\+cpu, expected"):
            cnn_jax.load_pretrained("lenet5", path)

    def test_a_compressed_file_is_not_read(self, torch, tmp_path, lenet_arrays):
        plain = save(tmp_path / "plain.pth", lenet_arrays)
        path = tmp_path / "weights.pth"
        with (
            zipfile.ZipFile(plain) as source,
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            for name in source.namelist():
                archive.writestr(name, source.read(name))
        refused(path, "its parts are compressed")

    def test_parts_that_share_their_bytes(self, torch, tmp_path, lenet_arrays):
        path = save(tmp_path / "weights.pth", lenet_arrays)
        with zipfile.ZipFile(path, "a") as archive:
            largest = max(archive.infolist(), key=lambda entry: entry.file_size)
            archive.filelist += [largest] * 9
            archive._didModify = True
        refused(path, "its parts claim .* bytes of")

    def test_a_tensor_of_one_number_seen_as_many(self, torch, tmp_path, lenet_arrays):
        tensors = {name: torch.from_numpy(a) for name, a in lenet_arrays.items()}
        tensors["c1.weight"] = torch.zeros(1).expand(2**40, 5)
        torch.save(tensors, tmp_path / "weights.pth")
        refused(tmp_path / "weights.pth", r"mis-shaped: c1.weight \(1099511627776, 5\)")

    @pytest.mark.parametrize("claimed", [2**33, 2**45])
    def test_a_storage_larger_than_the_file(
        self, claimed, torch, tmp_path, lenet_arrays
    ):
        """In the format before zips, where PyTorch allocates memory before it reads."""
        path = save(tmp_path / "weights.pt", lenet_arrays)
        content = path.read_bytes()
        # The storage of 150 numbers, as a pickle writes it: "K" and one byte.
        assert content.count(b"K\x96N") == 1
        number = b"\x8a\x08" + claimed.to_bytes(8, "little")
        path.write_bytes(content.replace(b"K\x96N", number + b"N"))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        refused(path, "does not read under weights_only=True")
        # In kilobytes: what is promised and never filled is no memory.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20

    def test_no_mapping(self, torch, tmp_path):
        torch.save(torch.zeros(3), tmp_path / "weights.pth")
        refused(tmp_path / "weights.pth", "got a Tensor, expected a mapping")

    def test_floats_of_16_bits(self, torch, tmp_path, lenet_arrays, lenet):
        tensors = {
            name: torch.from_numpy(array).bfloat16()
            for name, array in lenet_arrays.items()
        }
        torch.save(tensors, tmp_path / "weights.pth")
        loaded, report = cnn_jax.load_pretrained("lenet5", tmp_path / "weights.pth")
        chex.assert_trees_all_close(loaded, lenet, rtol=1e-2)
        assert set(report.cast.values()) == {("bfloat16", "float32")}


class Running:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


class memory_below:  # noqa: N801 - it is used like a function
    """Fails if more bytes than this were allocated at a time, Python's and NumPy's."""

    def __init__(self, limit):
        self.limit = limit

    def __enter__(self):
        # What is compiled or imported on first use is nothing that the file claims.
        with pytest.raises(ValueError, match="missing"):
            cnn_jax.load_pretrained("lenet5", {PATH: np.zeros((5, 5, 1, 6), "float32")})
        tracemalloc.start()

    def __exit__(self, kind, *rest):
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kind is not None or peak < self.limit
