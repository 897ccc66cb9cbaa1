"""Keras's HDF5 files: `.weights.h5` of Keras 3, and the older whole-model `.h5`.

Keras 3 keeps the arrays of a layer, numbered, under
`layers/CLASS_NUMBER/vars/ARRAY_NUMBER`, and the layer's name as an attribute of `vars`.
Older files have a group for each layer, by its name, and lists of names as attributes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import pathlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn_jax.files import check_regular, reading
from cnn_jax.pretrained.files.stored import (
    MAX_ARRAYS,
    Provenance,
    StoredArray,
    Weights,
)

if TYPE_CHECKING:
    import h5py

# What a layer's arrays are called, by how many dimensions each has.
_NAMES = {
    (1, 1, 1, 1): ("gamma", "beta", "moving_mean", "moving_variance"),
    (2,): ("kernel",),
    (2, 1): ("kernel", "bias"),
    (4,): ("kernel",),
    (4, 1): ("kernel", "bias"),
    (4, 4): ("depthwise_kernel", "pointwise_kernel"),
    (4, 4, 1): ("depthwise_kernel", "pointwise_kernel", "bias"),
}

_VARS = r"(.+/)?layers/[^/]+/vars"

_MAX_OBJECTS = 4 * MAX_ARRAYS
"""The most groups and datasets that a file may have."""

_MAX_DEPTH = 32
"""The most groups that one of them may be within."""

_MAX_TEXT = 2**28
"""In bytes: how much memory the names in an attribute may take."""

_MAX_CHUNKS = 2**16
"""The most pieces that an array may be stored in."""

_MAX_DEFLATED = 2**19
"""The largest compressed piece, in bytes; it may become a thousand times as many."""


@contextlib.contextmanager
def open_keras(path: pathlib.Path) -> Iterator[Weights]:
    """Opens a file and describes its arrays, named `LAYER/ARRAY` as in Keras.

    Layers that Keras named by counting (`conv2d_4`) are counted anew from the first
    one in the file, since Keras counts on from one model to the next.

    Raises:
      ImportError: If h5py is not installed.
      ValueError: If the file is no HDF5 file, is damaged, names no layers, or has
        arrays that are in other files.
    """
    if importlib.util.find_spec("h5py") is None:
        raise ImportError(
            f"{path}: Keras's files are read with h5py, which is not installed: pip "
            "install 'cnn_jax[keras-files]', or save the weights as .npz."
        )
    import h5py

    with contextlib.ExitStack() as stack:
        with _reading(path):
            check_regular(path)
            file = stack.enter_context(h5py.File(path, "r"))
            layers, ignored = _find_layers(file, path.stat().st_size)
            arrays = {
                f"{layer}/{name}": _describe(path, dataset)
                for layer, datasets in _counted_anew(layers).items()
                for name, dataset in zip(_names(datasets), datasets, strict=True)
            }
        yield Weights(arrays, Provenance(str(path), path), ignored)


def _reading(path: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    return reading(
        path,
        "what model.save_weights('NAME.weights.h5') writes in Keras 3",
        found="an HDF5 file that is damaged or not Keras's",
    )


def _find_layers(
    file: h5py.File, num_bytes: int
) -> tuple[dict[str, list[h5py.Dataset]], tuple[str, ...]]:
    """Returns the arrays of each layer in order, and the names of all others.

    Args:
      file: The file.
      num_bytes: Its length.
    """
    import h5py

    root = _child(file, "model_weights") if "model_weights" in file else file
    if "layer_names" in root.attrs:
        return _find_listed(root, num_bytes), ()
    groups: dict[str, dict[int, h5py.Dataset]] = {}
    ignored = []
    for path, found in _walk(file):
        if isinstance(found, h5py.Dataset):
            group, _, number = path.rpartition("/")
            if re.fullmatch(_VARS, group) and re.fullmatch("[0-9]{1,4}", number):
                groups.setdefault(group, {})[int(number)] = found
            else:
                ignored.append(path)
    layers: dict[str, list[h5py.Dataset]] = {}
    for group, datasets in groups.items():
        attributes = _child(file, group).attrs
        if "name" not in attributes:
            raise ValueError(f"{group} has no layer's name: saved by an older Keras")
        (name,) = _texts(attributes, "name", num_bytes)
        if name in layers:
            raise ValueError(f"two layers are called {name}")
        layers[name] = [datasets[number] for number in sorted(datasets)]
    return layers, tuple(ignored)


def _find_listed(root: h5py.Group, num_bytes: int) -> dict[str, list[h5py.Dataset]]:
    """Returns the arrays of each layer that a file of an older Keras lists."""
    layers: dict[str, list[h5py.Dataset]] = {}
    count = 0
    for layer in _texts(root.attrs, "layer_names", num_bytes):
        if layer in layers:
            raise ValueError(f"two layers are called {layer}")
        group = _child(root, layer)
        names = _texts(group.attrs, "weight_names", num_bytes)
        count += len(names)
        if len(set(names)) < len(names) or count > MAX_ARRAYS:
            raise ValueError(f"{layer} lists {count} arrays, or one of them twice")
        layers[layer] = [_child(group, name) for name in names]
    return {name: found for name, found in layers.items() if found}


def _walk(file: h5py.File) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """Yields the path and the object of all that is in a file, in order.

    HDF5's own walk calls itself for each group, however deep they are.

    Raises:
      ValueError: If there are more or deeper groups than models have.
    """
    import h5py

    ahead: list[tuple[str, h5py.Group]] = [("", file)]
    count = 0
    while ahead:
        path, group = ahead.pop()
        count += len(group)  # before their names are read
        if count > _MAX_OBJECTS or path.count("/") > _MAX_DEPTH:
            raise ValueError(
                f"more than {_MAX_OBJECTS} groups and arrays, or some deeper than "
                f"{_MAX_DEPTH}"
            )
        groups = []
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                continue
            found = group[name]
            yield path + name, found
            if isinstance(found, h5py.Group):
                groups.append((f"{path}{name}/", found))
        ahead.extend(reversed(groups))


def _child(group: h5py.Group, path: str) -> Any:
    """Returns what has a path in a group, if no part of it is a link.

    A link may lead to another file: any that can be read here.
    """
    import h5py

    parts = list(filter(None, path.split("/")))
    if len(parts) > _MAX_DEPTH:
        raise ValueError(f"a path of {len(parts)} parts")
    for part in parts:
        if part == ".":
            raise ValueError(f"{path[:200]!r} is no name")
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"{path[:200]} is a link")
        group = group[part]
    return group


def _counted_anew(layers: dict[str, Any]) -> dict[str, Any]:
    numbered: dict[str, dict[int, Any]] = {}
    others = {}
    for name, datasets in layers.items():
        match = re.fullmatch(r"(batch_normalization|conv2d)(?:_(\d+))?", name)
        if match is None:
            others[name] = datasets
        else:
            numbered.setdefault(match[1], {})[int(match[2] or 0)] = datasets
    for kind, found in numbered.items():
        for index, number in enumerate(sorted(found)):
            others[f"{kind}_{index}" if index else kind] = found[number]
    return others


def _names(datasets: list[h5py.Dataset]) -> tuple[str, ...]:
    dimensions = tuple(len(dataset.shape) for dataset in datasets)
    return _NAMES.get(dimensions) or tuple(map(str, range(len(datasets))))


def _describe(path: pathlib.Path, dataset: h5py.Dataset) -> StoredArray:
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{dataset.name} is in another file")
    if dataset.chunks and math.prod(dataset.chunks) > max(1, dataset.size):
        raise ValueError(f"{dataset.name} is stored in pieces larger than itself")

    def read() -> np.ndarray:
        with _reading(path):
            _check_pieces(dataset)
            array: np.ndarray = dataset[()]
            return array

    return StoredArray(dataset.shape, str(dataset.dtype), read)


def _check_pieces(dataset: h5py.Dataset) -> None:
    """Raises ValueError if a dataset may take more memory or time than its numbers.

    HDF5 decompresses a piece of it whole, however long that gets, and takes a filter
    that it does not know out of a library on the disk.
    """
    import h5py

    if not dataset.chunks:
        return
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    deflate = filters.count(h5py.h5z.FILTER_DEFLATE)
    plain = (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
    if deflate > 1 or set(filters) - {h5py.h5z.FILTER_DEFLATE, *plain}:
        raise ValueError(f"{dataset.name} is compressed by filters {filters}")
    sizes: list[int] = []

    def add(chunk: Any) -> bool | None:
        sizes.append(chunk.size)
        return len(sizes) > _MAX_CHUNKS or None  # True ends it

    dataset.id.chunk_iter(add)
    if len(sizes) > _MAX_CHUNKS:
        raise ValueError(f"{dataset.name} is stored in more than {_MAX_CHUNKS} pieces")
    if deflate and max(sizes, default=0) > _MAX_DEFLATED:
        raise ValueError(
            f"{dataset.name} is compressed in pieces of {max(sizes):,} bytes, expected "
            f"at most {_MAX_DEFLATED:,}"
        )


def _texts(attributes: h5py.AttributeManager, name: str, num_bytes: int) -> list[str]:
    """Returns the texts of an attribute, whose size is checked before it is read."""
    found = attributes.get_id(name)
    count, size = math.prod(found.shape), found.dtype.itemsize
    if found.dtype.hasobject:  # texts of any length, which may all be the same bytes
        size = num_bytes
    if count > MAX_ARRAYS or count * size > _MAX_TEXT:
        raise ValueError(
            f"the attribute {name} has {count} texts of up to {size} bytes"
        )
    values = attributes[name]
    if isinstance(values, str | bytes):
        values = [values]
    texts = [each.decode() if isinstance(each, bytes) else each for each in values]
    if not all(isinstance(each, str) for each in texts):
        raise ValueError(f"the attribute {name} holds no text")
    return texts
