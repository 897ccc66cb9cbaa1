"""The jaxpr of a network's inference, as a graph of ONNX's operators.

The network is traced with a batch of a size that nothing else has, a large prime, so
that where it stands in a shape the batch stands. (A symbolic batch would do the same,
but JAX then traces slices as gathers.) Calls are inlined: jit, and the rules of
differentiation, which inference does not need. What depends on parameters alone is
computed here; the rest becomes nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import kernels
from cnn_jax.export.network import Network
from cnn_jax.export.onnx.graph import (
    Graph,
    Shape,
    Tensor,
    UnsupportedOperationError,
    Value,
)
from cnn_jax.export.onnx.operators import ELEMENTWISE, OPERATORS

_BATCH = 1_000_003

_CALLS = (
    *("jit", "pjit", "closed_call", "core_call", "custom_jvp_call"),
    *("custom_vjp_call", "custom_vjp_call_jaxpr", "checkpoint", "remat2"),
)

_COMPUTED: dict[str, Callable[..., np.ndarray]] = {
    "add": lambda params, x, y: np.add(x, y),
    "convert_element_type": lambda params, x: np.asarray(x),
    "mul": lambda params, x, y: np.multiply(x, y),
    "reshape": lambda params, x: np.reshape(x, params["new_sizes"]),
    "rsqrt": lambda params, x: 1 / np.sqrt(x),
    "sub": lambda params, x, y: np.subtract(x, y),
    "transpose": lambda params, x: np.transpose(x, params["permutation"]),
}
"""The operations that norms need. JAX computes the same, but compiles
each of them for each shape."""


def trace(network: Network) -> Graph:
    """Returns the graph of a network, in float32 whatever its dtype.

    Raises:
      UnsupportedOperationError: If it has an operation without an operator here; the
        message names the layer.
    """
    about = network.description
    wide = network.in_float32()
    return trace_function(
        lambda images: wide(wide.variables, images),
        about.input_shape,
        about.input_dtype,
    )


def trace_function(
    function: Callable[[jax.Array], jax.Array],
    image_shape: Sequence[int],
    dtype: np.dtype[Any],
) -> Graph:
    """Returns the graph of a function of images with a free batch.

    Args:
      function: Images `(batch, *image_shape)` -> one array.
      image_shape: The shape of an image, channels last.
      dtype: The images' dtype.

    Raises:
      UnsupportedOperationError: As `trace`.
    """
    images = jax.ShapeDtypeStruct((_BATCH, *image_shape), dtype)
    # The plain lax forms, of which each operation of a CPU's would be many nodes.
    with kernels.target_platform("tpu"):
        closed = jax.make_jaxpr(function)(images)
    graph = Graph((None, *image_shape), np.dtype(dtype))
    (output,) = _walk(graph, closed.jaxpr, closed.consts, [graph.input], "")
    if not isinstance(output, Tensor):
        raise UnsupportedOperationError("got a network that ignores its images.")
    plain = graph.stored(output, channels_first=False)
    assert isinstance(plain, Tensor)
    graph.output = plain
    return graph


def _walk(
    graph: Graph,
    jaxpr: Any,
    constants: Sequence[Any],
    operands: Sequence[Value],
    scope: str,
) -> list[Value]:
    """Adds a jaxpr's operations and returns its results."""
    values: dict[Any, Value] = dict(zip(jaxpr.invars, operands, strict=True))
    for variable, constant in zip(jaxpr.constvars, constants, strict=True):
        values[variable] = np.asarray(constant)

    def read(atom: Any) -> Value:
        is_literal = hasattr(atom, "val")
        return np.asarray(atom.val) if is_literal else values[atom]

    for equation in jaxpr.eqns:
        layer = "/".join(filter(None, [scope, str(equation.source_info.name_stack)]))
        results = _apply(
            graph, equation, [read(atom) for atom in equation.invars], layer
        )
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(
    graph: Graph, equation: Any, operands: list[Value], layer: str
) -> Sequence[Value]:
    name, params = equation.primitive.name, equation.params
    if name in _CALLS:
        inner = params.get("call_jaxpr", params.get("jaxpr"))
        jaxpr, constants = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
        return _walk(graph, jaxpr, constants, operands, layer)
    if name == "platform_index":
        return [np.asarray(params["platforms"].index(None))]
    if name == "cond" and isinstance(operands[0], np.ndarray):
        branch = params["branches"][int(operands[0])]
        return _walk(graph, branch.jaxpr, branch.consts, operands[1:], layer)
    if name in ("optimization_barrier", "copy", "copy_p", "stop_gradient"):
        return operands
    graph.layer = layer
    try:
        return _results(graph, equation, operands)
    except UnsupportedOperationError as error:
        raise UnsupportedOperationError(
            f"{layer or 'the network itself'}: got operation {name!r}, which {error}; "
            "expected one that has an ONNX operator. `--format stablehlo` takes any."
        ) from error


def _results(graph: Graph, equation: Any, operands: list[Value]) -> Sequence[Value]:
    """Returns the results of an operation, computed or added to the graph."""
    name, params = equation.primitive.name, equation.params
    shapes = [_shape_of(each.aval.shape) for each in equation.outvars]
    constants = [each for each in operands if isinstance(each, np.ndarray)]
    is_constant = len(constants) == len(operands)
    if is_constant and any(None in shape for shape in shapes):
        constants = list(np.broadcast_arrays(*constants))
        is_constant = name in ELEMENTWISE
    if is_constant and name in _COMPUTED:
        computed = _COMPUTED[name](params, *constants)
        return [computed.astype(equation.outvars[0].aval.dtype)]
    if is_constant:
        found = equation.primitive.bind(*map(jnp.asarray, constants), **params)
        several = equation.primitive.multiple_results
        return list(map(np.asarray, found if several else [found]))
    if name not in OPERATORS:
        raise UnsupportedOperationError("is none that ONNX is written for here")
    if len(constants) == len(operands) and name != "broadcast_in_dim":
        raise UnsupportedOperationError("makes a batch out of parameters alone")
    (shape,) = shapes
    dtype = equation.outvars[0].aval.dtype
    return [OPERATORS[name](graph, params, operands, shape, dtype)]


def _shape_of(shape: Sequence[int]) -> Shape:
    if any(size % _BATCH == 0 and size > _BATCH for size in shape):
        raise UnsupportedOperationError(f"merges its batch with other axes in {shape}")
    return tuple(None if size == _BATCH else int(size) for size in shape)
