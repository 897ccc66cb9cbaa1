"""Files of every kind, and bad ones: clear errors, nothing run, memory bounded."""

import contextlib
import copy
import io
import json
import os
import pathlib
import pickle
import resource
import signal
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


class TestSpecialFiles:
    """A file that is not regular is refused before a library opens it."""

    @pytest.fixture(params=[".safetensors", ".npz", ".h5", ".pth", ".pt"])
    def path(self, request, tmp_path):
        if request.param == ".h5":
            pytest.importorskip("h5py")
        if request.param in (".pth", ".pt"):
            pytest.importorskip("torch")
        return tmp_path / f"weights{request.param}"

    def test_a_pipe(self, path):
        os.mkfifo(path)
        with seconds_below(10):
            refused(path, "got a named pipe, expected a regular file")

    @pytest.mark.parametrize("device", ["/dev/zero", "/dev/full"])
    def test_a_link_to_a_device(self, device, path):
        path.symlink_to(device)
        with seconds_below(10):
            refused(path, "got a device, expected a regular file")


class TestNames:
    """Work on names takes a time that grows with them."""

    def test_wrappers_in_wrappers(self, tmp_path, lenet_arrays, lenet):
        prefix = "module." * 1000 + "_orig_mod.module." * 2000
        arrays = {prefix + name: array for name, array in lenet_arrays.items()}
        path = save(tmp_path / "weights.safetensors", arrays)
        with seconds_below(10):
            loaded, _ = cnn_jax.load_pretrained("lenet5", path)
        chex.assert_trees_all_equal(loaded, lenet)

    def test_a_name_of_prefixes_alone(self):
        name = "module." * 3000
        with pytest.raises(ValueError, match="none is named as in a LeNet"):
            cnn_jax.load_pretrained("lenet5", {name: np.zeros(3, np.float32)})

    def test_a_long_name(self, tmp_path, lenet_arrays):
        lenet_arrays["x" * 1001] = np.zeros(3, np.float32)
        path = save(tmp_path / "weights.safetensors", lenet_arrays)
        refused(path, "got a name of 1,001 characters, expected at most 1,000")

    def test_many_names(self, tmp_path):
        arrays = {f"{i}": np.zeros((), np.float32) for i in range(10_001)}
        path = save(tmp_path / "weights.safetensors", arrays)
        refused(path, "got 10,001 arrays, expected at most 10,000")

    def test_what_does_not_fit_names_the_file(self, file, lenet_arrays):
        del lenet_arrays["c5.bias"]
        assert str(file) in refused(save(file, lenet_arrays), "missing: params/c5/bias")
        save(file, {"other": np.zeros(3, np.float32)})
        assert str(file) in refused(file, "none is named as in a LeNet")

    def test_an_array_of_fewer_dimensions_than_its_layer(self, lenet_arrays):
        lenet_arrays["output.weight"] = np.float32(3)
        with pytest.raises(ValueError, match=r"mis-shaped: output.weight \(\)"):
            cnn_jax.load_pretrained("lenet5", lenet_arrays)


class TestMappings:
    def test_a_state_dict_in_itself(self):
        mapping = {"c1.weight": np.zeros(3, np.float32)}
        mapping["state_dict"] = mapping
        with seconds_below(10), pytest.raises(ValueError, match="inside of 9 others"):
            cnn_jax.load_pretrained("lenet5", mapping)

    @pytest.mark.parametrize("kind", [list, tuple])
    def test_lists_of_more_numbers_than_memory_has(self, kind, lenet_arrays):
        many = kind([0.5])
        for _ in range(60):
            many = kind([many, many])
        lenet_arrays["c1.bias"] = many
        with seconds_below(10), pytest.raises(ValueError, match="not of floating"):
            cnn_jax.load_pretrained("lenet5", lenet_arrays)

    def test_a_list_in_itself(self, lenet_arrays):
        endless = [1.0]
        endless.append(endless)
        lenet_arrays["c1.bias"] = endless
        with seconds_below(10), pytest.raises(ValueError, match="not of floating"):
            cnn_jax.load_pretrained("lenet5", lenet_arrays)

    def test_lists_of_numbers_are_arrays(self, lenet_arrays, lenet):
        lenet_arrays["c1.bias"] = np.float64(lenet_arrays["c1.bias"]).tolist()
        loaded, _ = cnn_jax.load_pretrained("lenet5", lenet_arrays)
        chex.assert_trees_all_equal(loaded, lenet)

    def test_names_that_are_no_text(self):
        key = ()
        for _ in range(10):
            key = (key, key)
        with pytest.raises(ValueError, match="got a name that is a tuple, expected"):
            cnn_jax.load_pretrained("lenet5", {key: np.zeros(3, np.float32)})


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

    def damaged(self, path, match="got a damaged npz file"):
        with memory_below(2**23), seconds_below(10):
            assert str(path) in refused(path, match)

    @pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
    def test_compressed_as_numpy_does_not(self, method, tmp_path, lenet_arrays):
        plain, path = tmp_path / "plain.npz", tmp_path / "weights.npz"
        np.savez(plain, **lenet_arrays)
        rewrite_zip(plain, path, method)
        self.damaged(path, "is compressed by method")

    @pytest.mark.parametrize("position", range(40, 200, 20))
    def test_compressed_and_damaged(self, position, tmp_path, lenet_arrays):
        path = tmp_path / "weights.npz"
        np.savez_compressed(path, **lenet_arrays)
        content = bytearray(path.read_bytes())
        content[position : position + 20] = b"\xff" * 20
        path.write_bytes(content)
        self.damaged(path)

    @pytest.mark.parametrize(
        "header", ["{'descr': (", "(" * 5000, "-" * 9000, "{" * 300, "'" + "x" * 50]
    )
    def test_a_header_that_python_does_not_parse(self, header, tmp_path):
        text = header.encode()
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
        with zipfile.ZipFile(tmp_path / "weights.npz", "w") as archive:
            archive.writestr("c1.weight.npy", content)
        self.damaged(tmp_path / "weights.npz")

    def test_a_header_that_claims_gigabytes(self, tmp_path):
        content = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + bytes(2**25)
        with zipfile.ZipFile(
            tmp_path / "weights.npz", "w", zipfile.ZIP_DEFLATED
        ) as archive:
            archive.writestr("c1.weight.npy", content)
        del content
        self.damaged(tmp_path / "weights.npz")

    def test_parts_in_the_same_bytes(self, tmp_path, lenet_arrays):
        path = tmp_path / "weights.npz"
        np.savez(path, **lenet_arrays)
        with zipfile.ZipFile(path, "a") as archive:
            for number in range(20):
                other = copy.copy(archive.filelist[0])
                other.filename = f"other{number}.npy"
                archive.filelist.append(other)
            archive._didModify = True
        self.damaged(path, "shares its bytes|its parts claim")

    def test_two_parts_of_one_name(self, tmp_path, lenet_arrays):
        path = tmp_path / "weights.npz"
        np.savez(path, **lenet_arrays)
        with (
            zipfile.ZipFile(path, "a") as archive,
            pytest.warns(UserWarning, match="Duplicate"),
        ):
            archive.writestr("c1.bias.npy", archive.read("c1.bias.npy"))
        self.damaged(path, "two of its parts have one name")

    def test_a_directory_that_claims_gigabytes(self, tmp_path, lenet_arrays):
        path = tmp_path / "weights.npz"
        np.savez(path, **lenet_arrays)
        content = bytearray(path.read_bytes())
        struct.pack_into("<I", content, len(content) - 10, 2**32 - 2)
        path.write_bytes(content)
        self.damaged(path)

    @pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5_000, "[1]", '{"a"'])
    def test_metadata_that_are_none(self, text, tmp_path, lenet_arrays):
        path = tmp_path / "weights.npz"
        said = np.frombuffer(text.encode(), np.uint8)
        np.savez(path, **lenet_arrays, cnn_jax=said)
        assert str(path) in refused(path, "got metadata")

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

    def follow(self, tmp_path, content, match):
        """Checks that a pickle in a zip like PyTorch's is refused, at no cost."""
        path = tmp_path / "weights.pth"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", "3\n")
            archive.writestr("archive/byteorder", "little")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with seconds_below(10):
            assert str(path) in refused(path, match)
        # In kilobytes.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20

    def test_a_state_dict_in_itself(self, tmp_path):
        mapping = {}
        mapping["state_dict"] = mapping
        self.follow(tmp_path, pickle.dumps(mapping, 2), "inside of 9 others")

    def test_lists_of_more_numbers_than_memory_has(self, tmp_path):
        many = [0.5]
        for _ in range(40):
            many = [many, many]
        content = pickle.dumps({"c1.bias": many}, 2)
        assert len(content) < 1500
        self.follow(tmp_path, content, "none is named|missing")

    def test_tuples_whose_hash_takes_hours(self, tmp_path):
        # ((((), ()), ...), ...), made of what was made before, as a name.
        content = b"\x80\x02})" + b"q\x01h\x01\x86" * 45 + b"K\x01s."
        self.follow(tmp_path, content, "values to hash")

    def test_tuples_in_tuples(self, tmp_path):
        content = b"\x80\x02})" + b"\x85" * 500_000 + b"K\x01s."
        self.follow(tmp_path, content, "tuples that are 51 deep")

    def test_a_bytearray_of_any_length(self, tmp_path):
        content = b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + b"\xff" * 5 + b"\x00"
        self.follow(tmp_path, content + b"\x85R.", "makes no weights")

    def test_a_long_pickle(self, tmp_path):
        self.follow(tmp_path, b"\x80\x02" + b"N" * 2**24 + b".", "data.pkl has")
        self.follow(tmp_path, b"\x80\x02" + b"N" * 2**21 + b".", "524,288 steps")

    @pytest.mark.parametrize("suffix", [".pth", ".pt"])
    def test_a_tensor_larger_than_its_storage(
        self, suffix, torch, tmp_path, lenet_arrays
    ):
        path = save(tmp_path / f"weights{suffix}", lenet_arrays)
        content = path.read_bytes()
        # The size of the last layer's bias, and its stride.
        assert content.count(b"K\x0a\x85q") == 1
        content = content.replace(b"K\x0a\x85q", b"K\x78\x85q")
        path.write_bytes(content)
        if suffix == ".pth":
            rewrite_zip(path, path, zipfile.ZIP_STORED)
        refused(path, "a tensor that is larger than its storage")

    def test_a_part_that_is_another_one_by_its_case(
        self, torch, tmp_path, lenet_arrays
    ):
        path = save(tmp_path / "weights.pth", lenet_arrays)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("WEIGHTS/data.pkl", pickle.dumps({}, 2))
        refused(path, "two of its parts have one name")

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


def rewrite_zip(source, target, method):
    """Writes a zip file's parts anew, by another method and with sums that fit."""
    with zipfile.ZipFile(source) as archive:
        parts = {entry: archive.open(entry).read() for entry in damaged_parts(archive)}
    with zipfile.ZipFile(target, "w") as archive:
        for entry, content in parts.items():
            archive.writestr(entry.filename, content, method)


def damaged_parts(archive):
    """Returns all parts, without the sums that they must have."""
    for entry in archive.infolist():
        entry.CRC = None
    return archive.infolist()


class Running:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@contextlib.contextmanager
def seconds_below(limit):
    """Fails what computes longer, or waits six times as long: others may compute."""

    def stop(*_):
        raise BaseException(f"took over {limit} s")

    timers = ((signal.ITIMER_PROF, signal.SIGPROF, limit),)
    timers += ((signal.ITIMER_REAL, signal.SIGALRM, 6 * limit),)
    before = [signal.signal(number, stop) for _, number, _ in timers]
    for timer, _, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (timer, number, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


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
