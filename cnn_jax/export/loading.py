"""Reading of exported StableHLO, without Flax and without this project's models.

The file is a safetensors file: `module` (the bytes that `jax.export` serialises),
`golden/input` and `golden/output`, and each parameter under `variables/`. Its metadata
are the description, as JSON, and a sha256 of all that.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import struct
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from cnn_jax.export.description import Description
from cnn_jax.files import FileError, open_regular, reading

METADATA_NAME = "cnn_jax"
"""The metadata that hold the description."""

DIGEST_NAME = "sha256"
"""The metadata that hold `digest_of` the rest."""

MODULE, GOLDEN_INPUT, GOLDEN_OUTPUT = "module", "golden/input", "golden/output"
VARIABLES = "variables/"

TOLERANCE = 1e-6
"""The greatest difference from the golden output, relative to its largest logit."""

OTHER_TOLERANCE = 1e-2
"""The same on another kind of device than wrote the file: some multiply float32 numbers
in fewer bits. It is also for networks that compute in half precision."""

EXTRA = "reading and writing exported networks needs `pip install 'cnn_jax[export]'`"

_MAX_HEADER = 2**24
_MAX_MODULE = 2**27
_EXPECTED = "what `cnn-jax export --format stablehlo` writes; export it again"

_CALL = re.compile(r"stablehlo\.custom_call(?: @([\w.]+))?")
_ASSERTION = "shape_assertion"
"""The only call in modules of `jax.export`, with which it checks a free batch size."""

_FOREIGN = re.compile(r"stablehlo\.(while|infeed|outfeed|send|recv)\b")
"""Operations of no network here: those that wait, and a loop that may not end."""


class ExportedNetwork:
    """A network out of a file, a function of a batch of images.

    Attributes:
      description: What the file says of it.
      golden_input: The images that it was checked with, two of them.
      golden_output: Their logits, as the model gave them where it was exported.
    """

    def __init__(
        self,
        exported: Any,
        variables: Mapping[str, Any],
        description: Description,
        golden_input: np.ndarray,
        golden_output: np.ndarray,
    ):
        self.description = description
        self.golden_input = golden_input
        self.golden_output = golden_output
        self._variables = jax.device_put(dict(variables))
        self._call = jax.jit(exported.call)

    def __call__(self, images: Any) -> jax.Array:
        """Returns the logits `(batch, classes)`, float32.

        Args:
          images: `(batch, height, width, channels)`, a batch of at least 1; pixels in
            uint8, or normalised images in float32 where the description says so.

        Raises:
          ValueError: If the shape or the dtype is another one.
        """
        shape, dtype = self.description.input_shape, self.description.input_dtype
        got, got_dtype = np.shape(images), np.dtype(getattr(images, "dtype", object))
        if len(got) != 4 or got[1:] != shape or got[0] < 1 or got_dtype != dtype:
            raise ValueError(
                f"images: got {got_dtype} of shape {got}, expected {dtype} of shape "
                f"(batch, {', '.join(map(str, shape))}), a batch of at least 1."
            )
        logits: jax.Array = self._call(self._variables, images)
        return logits


def load_exported(
    path: str | os.PathLike[str], *, tolerance: float | None = None
) -> ExportedNetwork:
    """Returns the network in a file that `cnn-jax export --format stablehlo` wrote.

    Neither Flax nor the model is imported. The network is compiled once, for two
    images, and must give the logits that the file has for them. Like weights with their
    code, a file is a program: one that calls anything, or loops, is refused, but what
    time and memory its operations take is as the file says.

    Args:
      path: The file.
      tolerance: The greatest difference that those logits may have, relative to the
        largest of them. None takes 1e-6 on the kind of device that wrote the file, and
        1e-2 on another one, or for a network that computes in half precision.

    Raises:
      FileNotFoundError: If there is no such file.
      ImportError: If `flatbuffers`, of the extra `export`, is not installed.
      ValueError: If it is no such file, is damaged, or its logits differ.
    """
    arrays, metadata = _read(path)
    with reading(path, _EXPECTED):
        content = json.loads(metadata[METADATA_NAME])
        description = Description.from_dict(content)
        if metadata[DIGEST_NAME] != digest_of(metadata[METADATA_NAME], arrays):
            raise ValueError("its sha256 differs")
        golden_input, golden_output = arrays[GOLDEN_INPUT], arrays[GOLDEN_OUTPUT]
        variables = {
            name.removeprefix(VARIABLES): array
            for name, array in arrays.items()
            if name.startswith(VARIABLES)
        }
        exported = deserialize(arrays[MODULE].tobytes())
        _check_module(exported, variables, description)
        expected = (2, description.num_classes)
        if golden_output.shape != expected or golden_output.dtype != np.float32:
            raise ValueError(f"its golden output has shape {golden_output.shape}")
        network = ExportedNetwork(
            exported, variables, description, golden_input, golden_output
        )
        found = np.asarray(network(golden_input))
        if tolerance is None:
            is_same = content["platform"] == jax.default_backend()
            is_exact = is_same and content["dtype"] == "float32"
            tolerance = TOLERANCE if is_exact else OTHER_TOLERANCE
    difference = relative_difference(found, golden_output)
    if not difference <= tolerance:
        raise FileError(
            f"{path}: got logits that differ by {difference:.1e} of the largest from "
            f"those that the file was written with, expected at most {tolerance:.0e}; "
            "export it again, or pass a larger `tolerance` for another device."
        )
    return network


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the greatest difference over the greatest expected magnitude."""
    scale = max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
    difference: float = np.abs(found - expected).max()
    return float(difference) / scale


def digest_of(metadata: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the sha256 of a description and of arrays with their names."""
    digest = hashlib.sha256(metadata.encode("utf-8", "surrogatepass"))
    for name, array in sorted(arrays.items()):
        digest.update(f"\0{name}\0{array.dtype}{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def deserialize(module: bytes) -> Any:
    """Returns the `jax.export.Exported` of a module's bytes.

    Raises:
      ImportError: If `flatbuffers` is not installed.
      Exception: Whatever JAX raises over other bytes.
    """
    require("flatbuffers")
    from jax import export

    if len(module) > _MAX_MODULE:
        raise ValueError(f"a module of {len(module):,} bytes")
    return export.deserialize(bytearray(module))


def require(package: str) -> None:
    """Raises ImportError if a package of the extra `export` is not installed."""
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"{EXTRA} ({error}).") from error


def _check_module(
    exported: Any, variables: Mapping[str, np.ndarray], description: Description
) -> None:
    """Checks that a module is a function of these variables and images, and no more."""
    text = exported.mlir_module()
    foreign = set(_FOREIGN.findall(text))
    foreign |= {f"a call of {name or 'something'}" for name in _CALL.findall(text)}
    foreign -= {f"a call of {_ASSERTION}"}
    if foreign:
        raise ValueError(f"its program has {', '.join(sorted(foreign))[:100]}")
    leaves = jax.tree.leaves(dict(variables))
    *parameters, images = exported.in_avals
    given = [(leaf.shape, leaf.dtype) for leaf in leaves]
    if [(each.shape, each.dtype) for each in parameters] != given:
        raise ValueError("its program has other parameters")
    if images.shape[1:] != description.input_shape:
        raise ValueError(f"its program takes images of shape {images.shape}")


def _read(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the arrays and the metadata of a file of ours."""
    import safetensors

    with reading(path, _EXPECTED):
        with open_regular(path) as file:
            (length,) = struct.unpack("<Q", file.read(8))
        if length > _MAX_HEADER:
            raise ValueError(f"a header of {length:,} bytes")
        with safetensors.safe_open(path, framework="np") as opened:
            metadata = opened.metadata() or {}
            if METADATA_NAME not in metadata:
                raise ValueError("it does not say what it is")
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return arrays, metadata
