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

from cnn_jax.pretrained.files.stored import Provenance, StoredArray, Weights

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

    try:
        file = h5py.File(path, "r")
        layers, ignored = _find_layers(file)
        arrays = {
            f"{layer}/{name}": _describe(dataset)
            for layer, datasets in _counted_anew(layers).items()
            for name, dataset in zip(_names(datasets), datasets, strict=True)
        }
    # h5py raises any of these for a file that does not hold what it says.
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: got an HDF5 file that is damaged or not Keras's ({error}); "
            "expected what model.save_weights('NAME.weights.h5') writes in Keras 3."
        ) from error
    with file:
        yield Weights(arrays, Provenance(str(path), path), ignored)


def _find_layers(
    file: h5py.File,
) -> tuple[dict[str, list[h5py.Dataset]], tuple[str, ...]]:
    """Returns the arrays of each layer in order, and the names of all others."""
    import h5py

    root = file.get("model_weights", file)
    if "layer_names" in root.attrs:
        layers = {
            name: [root[name][array] for array in _texts(root[name], "weight_names")]
            for name in _texts(root, "layer_names")
        }
        return {name: found for name, found in layers.items() if found}, ()
    groups: dict[str, dict[int, h5py.Dataset]] = {}
    ignored = []

    def visit(path: str, found: h5py.Group | h5py.Dataset) -> None:
        if isinstance(found, h5py.Dataset):
            group, _, number = path.rpartition("/")
            if re.fullmatch(_VARS, group) and number.isdigit():
                groups.setdefault(group, {})[int(number)] = found
            else:
                ignored.append(path)

    file.visititems(visit)
    layers = {}
    for group, datasets in groups.items():
        attributes = file[group].attrs
        if "name" not in attributes:
            raise ValueError(f"{group} has no layer's name: saved by an older Keras")
        name = _text(attributes["name"])
        if name in layers:
            raise ValueError(f"two layers are called {name}")
        layers[name] = [datasets[number] for number in sorted(datasets)]
    return layers, tuple(ignored)


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


def _describe(dataset: h5py.Dataset) -> StoredArray:
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{dataset.name} is in another file")
    if dataset.chunks and math.prod(dataset.chunks) > max(1, dataset.size):
        raise ValueError(f"{dataset.name} is stored in pieces larger than itself")
    return StoredArray(dataset.shape, str(dataset.dtype), lambda: dataset[()])


def _texts(group: h5py.Group, attribute: str) -> list[str]:
    return [_text(value) for value in group.attrs[attribute]]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
