"""Files of weights: plain ones, Keras's, PyTorch's, and those of `cnn-jax convert`."""

from __future__ import annotations

import functools
import json
import pathlib
import random
import struct
from collections.abc import Callable, Sequence

import numpy as np

from fuzzing.formats import Format
from fuzzing.mutations import Mutation, of_bytes, of_json, of_parts, of_zip


def lenet_arrays() -> dict[str, np.ndarray]:
    """Returns path -> array of a LeNet-5."""
    import cnn_jax
    from cnn_jax.layers import abstract_variables
    from cnn_jax.trees import named_leaves

    shapes = abstract_variables(
        cnn_jax.create_model("lenet5"), np.zeros((1, 32, 32, 1), np.float32)
    )
    generator = np.random.default_rng(0)
    return {
        path: generator.normal(size=leaf.shape).astype(np.float32)
        for path, leaf in named_leaves(shapes).items()
    }


def read_as_given(name: str, model: str = "lenet5") -> Callable[[pathlib.Path], None]:
    """Returns a reader of a file or directory of weights for a model."""

    def read(directory: pathlib.Path) -> None:
        import cnn_jax

        _trace_once()
        cnn_jax.load_pretrained(model, directory / name)

    return read


def read_as_ours(name: str) -> Callable[[pathlib.Path], None]:
    """Returns a reader of weights that say which model they are for."""

    def read(directory: pathlib.Path) -> None:
        from cnn_jax.pretrained.files import describe_own
        from cnn_jax.pretrained.load import fill
        from cnn_jax.pretrained.rebuild import rebuild

        _trace_once()
        path = directory / name
        model = rebuild(path, describe_own(path))
        fill(model, path, source=None, num_classes=None, key=None)

    return read


def _trace_once() -> None:
    """Has the model's shapes found out once: that takes most of the time otherwise."""
    from cnn_jax.pretrained import load

    if not hasattr(load.abstract_variables, "cache_info"):
        load.abstract_variables = functools.lru_cache(100)(load.abstract_variables)


def array_member(content: bytes, generator: random.Random) -> bytes:
    """Mutates a `.npy` file: its header, or all of it."""
    if generator.random() < 0.7:
        return of_bytes(content[:128], generator) + content[128:]
    return of_bytes(content, generator)


def _make_npz(directory: pathlib.Path) -> None:
    np.savez(directory / "weights.npz", **lenet_arrays())


def _make_compressed(directory: pathlib.Path) -> None:
    np.savez_compressed(directory / "weights.npz", **lenet_arrays())


def _make_converted(suffix: str) -> Callable[[pathlib.Path], None]:
    def make(directory: pathlib.Path) -> None:
        from cnn_jax.pretrained import convert

        plain = directory.parent / "plain.npz"
        np.savez(plain, **lenet_arrays())
        convert(plain, directory / f"weights{suffix}", "lenet5")

    return make


def _metadata_member(content: bytes, generator: random.Random) -> bytes:
    """Mutates the JSON in an array of bytes, and its header with it."""
    if b"|u1" not in content[:128]:
        return array_member(content, generator)
    import io

    text = of_json(np.lib.format.read_array(io.BytesIO(content)).tobytes(), generator)
    out = io.BytesIO()
    np.lib.format.write_array(out, np.frombuffer(text, np.uint8))
    return out.getvalue()


def _split_safetensors(content: bytes) -> Sequence[bytes]:
    (length,) = struct.unpack_from("<Q", content)
    return content[8 : 8 + length], content[8 + length :]


def _join_safetensors(parts: Sequence[bytes]) -> bytes:
    return struct.pack("<Q", len(parts[0])) + parts[0] + parts[1]


def _said(content: bytes, generator: random.Random) -> bytes:
    """Mutates what a header of ours says, which is JSON in a text in JSON."""
    header = json.loads(content)
    text = header["__metadata__"]["cnn_jax"].encode()
    changed = of_json(text, generator).decode("utf-8", "replace")
    header["__metadata__"]["cnn_jax"] = changed
    return json.dumps(header).encode()


def _of_header(mutation: Mutation) -> Mutation:
    return of_parts(_split_safetensors, _join_safetensors, mutation)


def _make_keras(directory: pathlib.Path) -> None:
    """Writes the layout of Keras 3 with the arrays of a small MobileNet."""
    import h5py

    counts: dict[str, int] = {}
    with h5py.File(directory / "weights.h5", "w") as file:
        for layer, leaves in _mobilenet_layers().items():
            kind = _KINDS[tuple(leaves)]
            count = counts[kind] = counts.get(kind, -1) + 1
            group = file.create_group(f"layers/{kind}_{count}/vars")
            group.attrs["name"] = layer
            for number, array in enumerate(leaves.values()):
                group.create_dataset(str(number), data=array)


def _make_older_keras(directory: pathlib.Path) -> None:
    """Writes the layout before Keras 3."""
    import h5py

    with h5py.File(directory / "weights.h5", "w") as file:
        layers = _mobilenet_layers()
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = np.array([name.encode() for name in layers])
        for layer, leaves in layers.items():
            group = root.create_group(layer)
            names = [f"{layer}/{leaf}:0" for leaf in leaves]
            group.attrs["weight_names"] = np.array([name.encode() for name in names])
            for name, array in zip(names, leaves.values(), strict=True):
                group.create_dataset(name, data=array, compression="gzip")


_KINDS = {
    ("kernel",): "conv2d",
    ("kernel", "bias"): "conv2d",
    ("depthwise_kernel", "pointwise_kernel"): "separable_conv2d",
    ("gamma", "beta", "moving_mean", "moving_variance"): "batch_normalization",
}


def _mobilenet_layers() -> dict[str, dict[str, np.ndarray]]:
    from references import ours

    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, array in ours.reference_arrays("mobilenet_v1_0_25").items():
        layer, _, leaf = name.rpartition("/")
        layers.setdefault(layer, {})[leaf] = array.astype(np.float32)
    return layers


def _structure(content: bytes, generator: random.Random) -> bytes:
    """Mutates HDF5's own bytes, of which each structure begins with four letters."""
    marks = (b"TREE", b"HEAP", b"SNOD", b"GCOL", b"OHDR", b"OCHK", b"FRHP", b"BTHD")
    mark = generator.choice(marks)
    starts, start = [], content.find(mark)
    while start >= 0:
        starts.append(start)
        start = content.find(mark, start + 1)
    start = generator.choice(starts) if starts else 0
    end = min(len(content), start + generator.choice((48, 128, 512)))
    changed = of_bytes(content[start:end], generator)
    return content[:start] + changed + content[end:]


def _header(content: bytes, generator: random.Random) -> bytes:
    """Mutates the beginning of a file."""
    return of_bytes(content[:2048], generator) + content[2048:]


def _make_torch(name: str) -> Callable[[pathlib.Path], None]:
    def make(directory: pathlib.Path) -> None:
        import torch

        arrays = lenet_arrays()
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        torch.save(
            {"state_dict": tensors, "epoch": 90, "milestones": [1, (2, 3), {"a": 1.5}]},
            directory / name,
            _use_new_zipfile_serialization=name.endswith(".pth"),
        )

    return make


def _pickle(content: bytes, generator: random.Random) -> bytes:
    """Mutates a pickle: one of its opcodes is put elsewhere, repeated or left out."""
    import pickletools

    try:
        starts = [start for _, _, start in pickletools.genops(content)]
        first, second = sorted(generator.sample(range(len(starts)), 2))
    except Exception:  # mutated before, or the numbers of an array
        return of_bytes(content, generator)
    second = min(second, first + generator.choice((1, 2, 10, 100)))
    start = generator.choice(starts)
    piece = content[starts[first] : starts[second]]
    kind = generator.randrange(4)
    if kind == 0:
        return content[: starts[first]] + content[starts[second] :]
    if kind == 1:
        repeated = piece * generator.choice((1, 1, 10, 1000))
        return content[: starts[second]] + repeated + content[starts[second] :]
    if kind == 2:
        return content[:start] + piece + content[start:]
    new = generator.choice((*_PIECES, bytes([generator.randrange(256)])))
    return content[:start] + new + content[start + 1 :]


_PIECES = (
    *(b"cos\nsystem\n", b"cbuiltins\nbytearray\n", b"ctorch\nFloatStorage\n"),
    *(b"ccollections\nOrderedDict\n", b"(", b"t", b"\x85", b"\x86", b"h\x01", b"R"),
    *(b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"X\xff\xff\xff\xff", b"Q", b"2", b"u"),
)


def _legacy(content: bytes, generator: random.Random) -> bytes:
    """Mutates the pickles that a file of PyTorch before its zips begins with."""
    end = content.find(b"storage") + 2000
    return _pickle(content[:end], generator) + content[end:]


_SAFETENSORS = (_of_header(of_json), _of_header(of_bytes))

FORMATS = (
    Format(
        "npz", _make_npz, read_as_given("weights.npz"), {"*": (of_zip(array_member),)}
    ),
    Format(
        "npz-compressed",
        _make_compressed,
        read_as_given("weights.npz"),
        {"*": (of_zip(array_member),)},
    ),
    Format(
        "npz-converted",
        _make_converted(".npz"),
        read_as_ours("weights.npz"),
        {"*": (of_zip(_metadata_member),)},
    ),
    Format(
        "safetensors",
        _make_converted(".safetensors"),
        read_as_ours("weights.safetensors"),
        {"*": (*_SAFETENSORS, _of_header(_said))},
    ),
    Format(
        "h5",
        _make_keras,
        read_as_given("weights.h5", "mobilenet_v1_0_25"),
        {"*": (_structure, _header)},
        needs=("h5py",),
    ),
    Format(
        "h5-before-keras-3",
        _make_older_keras,
        read_as_given("weights.h5", "mobilenet_v1_0_25"),
        {"*": (_structure, _header)},
        needs=("h5py",),
    ),
    Format(
        "pth",
        _make_torch("weights.pth"),
        read_as_given("weights.pth"),
        {"*": (of_zip(_pickle),)},
        needs=("torch",),
    ),
    Format(
        "pth-before-zips",
        _make_torch("weights.pt"),
        read_as_given("weights.pt"),
        {"*": (_legacy,)},
        needs=("torch",),
    ),
)
