"""lax's elementwise operations as ONNX's operators, which broadcast as NumPy does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cnn_jax.export.onnx.graph import (
    Graph,
    Shape,
    Tensor,
    UnsupportedOperationError,
    Value,
)

Params = Mapping[str, Any]
Operands = Sequence[Value]
Operator = Callable[[Graph, Params, Operands, Shape, Any], Value]


def named(name: str) -> Operator:
    """Returns the function of an operation that ONNX has under another name."""

    def apply(
        graph: Graph, params: Params, operands: Operands, shape: Shape, dtype: Any
    ) -> Value:
        del params
        first, aligned = graph.aligned(*operands)
        return graph.add(name, aligned, shape, dtype, channels_first=first)

    return apply


def subtract(
    graph: Graph, params: Params, operands: Operands, shape: Shape, dtype: Any
) -> Value:
    """Adds the negative of a constant: sums are what norms fold from."""
    x, y = operands
    if isinstance(y, np.ndarray) and np.issubdtype(dtype, np.floating):
        return named("Add")(graph, params, (x, -y), shape, dtype)
    return named("Sub")(graph, params, operands, shape, dtype)


def divide(
    graph: Graph, params: Params, operands: Operands, shape: Shape, dtype: Any
) -> Value:
    """Multiplies by the inverse of a constant, likewise."""
    x, y = operands
    if isinstance(y, np.ndarray) and np.issubdtype(dtype, np.floating) and y.all():
        inverse = 1 / y.astype(np.float64)
        return named("Mul")(graph, params, (x, inverse), shape, dtype)
    return named("Div")(graph, params, operands, shape, dtype)


def maximum(
    graph: Graph, params: Params, operands: Operands, shape: Shape, dtype: Any
) -> Value:
    """Adds a `Relu` where one of two is 0, else a `Max`."""
    for x, y in (operands, operands[::-1]):
        if isinstance(y, np.ndarray) and not y.any():
            return named("Relu")(graph, params, [x], shape, dtype)
    return named("Max")(graph, params, operands, shape, dtype)


def select(
    graph: Graph, params: Params, operands: Operands, shape: Shape, dtype: Any
) -> Value:
    """Adds a `Where`."""
    which, if_false, *others = operands
    if len(others) != 1 or which.dtype != np.bool_:
        raise UnsupportedOperationError("selects among other than two arrays")
    order = (which, others[0], if_false)
    return named("Where")(graph, params, order, shape, dtype)


def clamp(
    graph: Graph, params: Params, operands: Operands, shape: Shape, dtype: Any
) -> Value:
    """Adds a `Max` and a `Min`, which `fold` makes a `Clip`."""
    low, x, high = operands
    above = named("Max")(graph, params, (x, low), shape, dtype)
    return named("Min")(graph, params, (above, high), shape, dtype)


def square(
    graph: Graph, params: Params, operands: Operands, shape: Shape, dtype: Any
) -> Value:
    """Multiplies by itself."""
    return named("Mul")(graph, params, [*operands, *operands], shape, dtype)


def integer_pow(
    graph: Graph, params: Params, operands: Operands, shape: Shape, dtype: Any
) -> Value:
    """Adds a `Pow`."""
    exponent = np.asarray(params["y"], dtype)
    return named("Pow")(graph, params, [*operands, exponent], shape, dtype)


def inverse_root(
    graph: Graph, params: Params, operands: Operands, shape: Shape, dtype: Any
) -> Value:
    """Adds the `Reciprocal` of a `Sqrt`."""
    root = named("Sqrt")(graph, params, operands, shape, dtype)
    return named("Reciprocal")(graph, params, [root], shape, dtype)


def erfc(
    graph: Graph, params: Params, operands: Operands, shape: Shape, dtype: Any
) -> Value:
    """Subtracts an `Erf` from 1."""
    found = named("Erf")(graph, params, operands, shape, dtype)
    return named("Sub")(graph, params, (np.ones((), dtype), found), shape, dtype)


def convert(
    graph: Graph, params: Params, operands: Operands, shape: Shape, dtype: Any
) -> Value:
    """Adds a `Cast`."""
    (x,) = operands
    assert isinstance(x, Tensor)  # a constant was converted already
    if x.dtype == dtype:
        return x
    return graph.add(
        "Cast",
        [x],
        shape,
        dtype,
        channels_first=x.channels_first,
        attributes={"to": np.dtype(dtype)},
    )
