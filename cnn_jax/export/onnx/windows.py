"""Convolutions, pools and matrix products as ONNX's operators."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnn_jax.export.onnx.graph import (
    Graph,
    Shape,
    Tensor,
    UnsupportedOperationError,
    Value,
)


def convolve(
    graph: Graph,
    params: Mapping[str, Any],
    operands: Sequence[Value],
    shape: Shape,
    dtype: Any,
) -> Tensor:
    """Adds a `Conv`, with filters that are constants, channels first."""
    x, w = operands
    numbers, rank = params["dimension_numbers"], len(shape)
    last = (0, rank - 1, *range(1, rank - 1))
    if not isinstance(x, Tensor) or not isinstance(w, np.ndarray):
        raise UnsupportedOperationError("convolves with filters that depend on images")
    if (numbers.lhs_spec, numbers.out_spec) != (last, last):
        raise UnsupportedOperationError("convolves images without channels last")
    if max(params["lhs_dilation"]) > 1 or params["batch_group_count"] > 1:
        raise UnsupportedOperationError("is a transposed convolution, or over a batch")
    w = w.transpose(numbers.rhs_spec)
    return graph.add(
        "Conv",
        [graph.stored(x, channels_first=True), w],
        shape,
        dtype,
        channels_first=True,
        attributes={
            "kernel_shape": w.shape[2:],
            "strides": params["window_strides"],
            "pads": _pads(params["padding"]),
            "dilations": params["rhs_dilation"],
            "group": params["feature_group_count"],
        },
    )


def max_pool(
    graph: Graph,
    params: Mapping[str, Any],
    operands: Sequence[Value],
    shape: Shape,
    dtype: Any,
) -> Tensor:
    """Adds a `MaxPool`."""
    pool = _window(params)
    pool["dilations"] = params["window_dilation"][1:-1]
    x = graph.stored(operands[0], channels_first=True)
    return graph.add("MaxPool", [x], shape, dtype, channels_first=True, attributes=pool)


def sum_pool(
    graph: Graph,
    params: Mapping[str, Any],
    operands: Sequence[Value],
    shape: Shape,
    dtype: Any,
) -> Tensor:
    """Adds an `AveragePool` that counts padding, times the size of its window."""
    if max(params["window_dilation"]) > 1:
        raise UnsupportedOperationError("sums entries that are apart")
    pool = _window(params) | {"count_include_pad": 1}
    x = graph.stored(operands[0], channels_first=True)
    mean = graph.add(
        "AveragePool", [x], shape, dtype, channels_first=True, attributes=pool
    )
    size = np.asarray(math.prod(pool["kernel_shape"]), dtype)
    return graph.add("Mul", [mean, size], shape, dtype, channels_first=True)


def multiply_matrices(
    graph: Graph,
    params: Mapping[str, Any],
    operands: Sequence[Value],
    shape: Shape,
    dtype: Any,
) -> Tensor:
    """Adds a `MatMul` by a constant; of images, a `Conv` with filters of one entry."""
    x, w = operands
    contracted, batched = params["dimension_numbers"]
    if not isinstance(x, Tensor) or not isinstance(w, np.ndarray):
        raise UnsupportedOperationError("multiplies matrices that depend on images")
    if any(batched) or tuple(contracted[0]) != (len(x.shape) - 1,) or w.ndim != 2:
        raise UnsupportedOperationError("multiplies other axes than the last")
    if tuple(contracted[1]) == (1,):
        w = w.T
    if len(x.shape) == 2:
        return graph.add("MatMul", [x, w], shape, dtype)
    rank = len(x.shape) - 2
    return graph.add(
        "Conv",
        [graph.stored(x, channels_first=True), w.T.reshape(*w.T.shape, *[1] * rank)],
        shape,
        dtype,
        channels_first=True,
        attributes={
            "kernel_shape": [1] * rank,
            "strides": [1] * rank,
            "pads": [0] * (2 * rank),
            "dilations": [1] * rank,
            "group": 1,
        },
    )


def _window(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the attributes of a pool over all axes but the first and the last."""
    sizes, strides = params["window_dimensions"], params["window_strides"]
    padding = params["padding"]
    outer = {(sizes[axis], strides[axis], tuple(padding[axis])) for axis in (0, -1)}
    if outer != {(1, 1, (0, 0))} or max(params["base_dilation"]) > 1:
        raise UnsupportedOperationError("pools over channels, or spread images")
    return {
        "kernel_shape": sizes[1:-1],
        "strides": strides[1:-1],
        "pads": _pads(padding[1:-1]),
    }


def _pads(padding: Sequence[Sequence[int]]) -> list[int]:
    """Returns ONNX's order, all that is below and then all that is above."""
    pads = [int(each[side]) for side in (0, 1) for each in padding]
    if min(pads, default=0) < 0:
        raise UnsupportedOperationError("has a window with negative padding")
    return pads
