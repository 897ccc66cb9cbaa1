"""A graph as an ONNX file, checked by ONNX's checker and, if it is there, a runtime."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np

from cnn_jax.export import loading
from cnn_jax.export.description import Description
from cnn_jax.export.network import Network
from cnn_jax.export.onnx.folding import fold
from cnn_jax.export.onnx.graph import Graph, Shape, Tensor
from cnn_jax.export.onnx.tracing import trace

OPSET = 17
"""The version of the operators: of 2022, which every current runtime reads."""

IR_VERSION = 8
"""The version of the file's format that came with it."""

TOLERANCE = 1e-4
"""The greatest difference from the model's logits, relative to the largest of them."""

_MAX_BYTES = 2**31 - 1
"""The largest file that protobuf allows."""


def as_onnx(network: Network) -> tuple[bytes, list[str]]:
    """Returns the content of a network's ONNX file, and what checked it.

    Raises:
      ImportError: If `onnx`, of the extra `export`, is not installed.
      RuntimeError: If `onnxruntime` gives other logits than the model.
      ValueError: If an operation has no operator, or the file would be over 2 GiB.
    """
    loading.require("onnx")
    import onnx

    graph = fold(trace(network))
    model = to_model(graph, network.description)
    size = model.ByteSize()
    if size > _MAX_BYTES:
        raise ValueError(
            f"{network.description.model}: got {size:,} bytes of ONNX, expected at "
            f"most {_MAX_BYTES:,}; export it as stablehlo."
        )
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    checked_by = ["ONNX's checker"]
    if _agrees(content, network):
        checked_by.append("the model's logits, under onnxruntime")
    return content, checked_by


def to_model(graph: Graph, about: Description) -> Any:
    """Returns a graph as `onnx.ModelProto`, with the description in its metadata."""
    from onnx import helper, numpy_helper

    names = {graph.output.name: "logits"}
    nodes = []
    for number, node in enumerate(graph.nodes):
        attributes = {
            name: helper.np_dtype_to_tensor_dtype(value)
            if isinstance(value, np.dtype)
            else value
            for name, value in node.attributes.items()
        }
        nodes.append(
            helper.make_node(
                node.operator,
                [names.get(name, name) for name in node.inputs],
                [names.get(node.output, node.output)],
                name=f"{node.layer}/{node.operator}_{number}",
                **attributes,
            )
        )
    constants = [
        numpy_helper.from_array(_narrow(array), name)
        for name, array in graph.constants.items()
    ]
    made = helper.make_graph(
        nodes,
        about.model,
        [_value(graph.input, "images")],
        [_value(graph.output, "logits")],
        constants,
    )
    model = helper.make_model(
        made,
        producer_name="cnn_jax",
        producer_version=about.versions["cnn_jax"],
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    described = about.to_dict() | {"format": "onnx", "opset": OPSET}
    helper.set_model_props(
        model,
        {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in described.items()
        },
    )
    return model


def _narrow(array: np.ndarray) -> np.ndarray:
    is_wide = array.dtype == np.float64
    return np.ascontiguousarray(array.astype(np.float32) if is_wide else array)


def _value(tensor: Tensor, name: str) -> Any:
    from onnx import helper

    shape: Shape = tensor.shape
    return helper.make_tensor_value_info(
        name,
        helper.np_dtype_to_tensor_dtype(tensor.dtype),
        ["batch" if size is None else size for size in shape],
    )


def _agrees(content: bytes, network: Network) -> bool:
    """Returns whether the logits are the model's; False without `onnxruntime`."""
    try:
        import onnxruntime
    except ImportError:
        return False
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    images = network.example(2)
    (found,) = session.run(None, {"images": images})
    wide = network.in_float32()
    expected = np.asarray(jax.jit(wide)(wide.variables, images))
    difference = loading.relative_difference(found, expected)
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"{network.description.model}: onnxruntime's logits differ from the "
            f"model's by {difference:.1e} of the largest, expected {TOLERANCE:.0e} at "
            "most."
        )
    return True
