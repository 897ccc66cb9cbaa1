"""A network as StableHLO, in a file that checks itself when it is loaded.

The batch is free, and one program serves every platform of `PLATFORMS`: the kernels'
choice of a form per platform is in it. Rules of differentiation are not: nothing
differentiates what is exported.
"""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from cnn_jax import trees
from cnn_jax.export import loading
from cnn_jax.export.network import Network

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""The platforms that the program is lowered for, as `jax.export` calls them."""

_LOCATIONS = "jax_traceback_in_locations_limit"


def as_stablehlo(network: Network) -> bytes:
    """Returns the content of a network's file, which `cnn_jax.load_exported` reads.

    Its golden output is `model.apply`'s, and the program in the file was found to give
    the same.

    Raises:
      ImportError: If `flatbuffers`, of the extra `export`, is not installed.
      RuntimeError: If the program gives other logits than the model.
    """
    loading.require("flatbuffers")
    leaves = trees.named_leaves(network.variables)
    structure = jax.tree.structure(network.variables)

    def infer(named: dict[str, Any], images: jax.Array) -> jax.Array:
        values = [named[name] for name in leaves]
        return network(jax.tree.unflatten(structure, values), images)

    module = _lower(infer, leaves, network)
    golden_input = network.example(2)
    golden_output = np.asarray(jax.jit(network)(network.variables, golden_input))
    _check(module, leaves, golden_input, golden_output, network)
    arrays = {
        loading.MODULE: np.frombuffer(module, np.uint8),
        loading.GOLDEN_INPUT: golden_input,
        loading.GOLDEN_OUTPUT: golden_output,
        **{
            loading.VARIABLES + name: np.ascontiguousarray(leaf)
            for name, leaf in leaves.items()
        },
    }
    text = json.dumps(
        network.description.to_dict()
        | {
            "format": "stablehlo",
            "platforms": PLATFORMS,
            "platform": jax.default_backend(),
            "dtype": str(network.dtype),
        }
    )
    metadata = {
        loading.METADATA_NAME: text,
        loading.DIGEST_NAME: loading.digest_of(text, arrays),
    }
    content: bytes = safetensors.numpy.save(arrays, metadata)
    return content


def _lower(infer: Any, leaves: dict[str, Any], network: Network) -> bytes:
    from jax import export

    (batch,) = export.symbolic_shape("batch")
    shapes = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for name, leaf in leaves.items()
    }
    about = network.description
    images = jax.ShapeDtypeStruct((batch, *about.input_shape), about.input_dtype)
    # Where a line of code is on the machine that exports is nobody else's business.
    limit = getattr(jax.config, _LOCATIONS)
    jax.config.update(_LOCATIONS, 0)
    try:
        exported = export.export(jax.jit(infer), platforms=PLATFORMS)(shapes, images)
    finally:
        jax.config.update(_LOCATIONS, limit)
    return bytes(exported.serialize())


def _check(
    module: bytes,
    leaves: dict[str, Any],
    images: np.ndarray,
    expected: np.ndarray,
    network: Network,
) -> None:
    exported = loading.deserialize(module)
    found = np.asarray(jax.jit(exported.call)(leaves, images))
    difference = loading.relative_difference(found, expected)
    is_exact = network.dtype == np.float32
    allowed = loading.TOLERANCE if is_exact else loading.OTHER_TOLERANCE
    if not difference <= allowed:
        raise RuntimeError(
            f"{network.description.model}: the exported program's logits differ from "
            f"the model's by {difference:.1e} of the largest, expected {allowed:.0e} "
            "at most."
        )
