"""Operations on the shape of an array, and reductions, as ONNX's operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnn_jax.export.onnx.elementwise import Operands, Operator, Params
from cnn_jax.export.onnx.graph import (
    Graph,
    Shape,
    Tensor,
    UnsupportedOperationError,
    Value,
)


def reshape(
    graph: Graph, params: Params, operands: Operands, shape: Shape, dtype: Any
) -> Value:
    """Adds a `Reshape`, which also drops axes of one entry."""
    del params, dtype
    (x,) = operands
    assert isinstance(x, Tensor)  # a constant was reshaped already
    return graph.reshaped(x, shape)


def broadcast(
    graph: Graph, params: Params, operands: Operands, shape: Shape, dtype: Any
) -> Value:
    """Adds a `Reshape` and an `Expand`, as far as they are needed."""
    (x,) = operands
    placed: list[int | None] = [1] * len(shape)
    for axis, size in zip(params["broadcast_dimensions"], x.shape, strict=True):
        placed[axis] = size
    if isinstance(x, np.ndarray):  # to a batch, which its users broadcast it to
        return x.reshape([size or 1 for size in placed])
    x = graph.reshaped(x, tuple(placed))
    if x.shape == shape:
        return x
    if shape.count(None) != x.shape.count(None):
        raise UnsupportedOperationError("repeats an array along its batch")
    sizes = np.ones(len(shape), np.int64)
    for axis, place in enumerate(x.axes):
        sizes[place] = shape[axis] or 1
    return graph.add(
        "Expand", [x, sizes], shape, dtype, channels_first=x.channels_first
    )


def transpose(
    graph: Graph, params: Params, operands: Operands, shape: Shape, dtype: Any
) -> Value:
    """Adds a `Transpose`."""
    x = graph.stored(operands[0], channels_first=False)
    order = tuple(map(int, params["permutation"]))
    return graph.add("Transpose", [x], shape, dtype, attributes={"perm": order})


def concatenate(
    graph: Graph, params: Params, operands: Operands, shape: Shape, dtype: Any
) -> Value:
    """Adds a `Concat`."""
    if not all(isinstance(each, Tensor) for each in operands):
        raise UnsupportedOperationError("joins constants to tensors")
    first, aligned = graph.aligned(*operands)
    assert isinstance(aligned[0], Tensor)
    axis = aligned[0].axes[params["dimension"]]
    return graph.add(
        "Concat", aligned, shape, dtype, channels_first=first, attributes={"axis": axis}
    )


def take_slice(
    graph: Graph, params: Params, operands: Operands, shape: Shape, dtype: Any
) -> Value:
    """Adds a `Slice`."""
    (x,) = operands
    assert isinstance(x, Tensor)
    strides = params["strides"] or (1,) * len(shape)
    bounds = []
    for axis, size in enumerate(x.shape):
        start, end = params["start_indices"][axis], params["limit_indices"][axis]
        if size is None:
            if shape[axis] is not None:
                raise UnsupportedOperationError("takes a part of its batch")
        elif (start, end, strides[axis]) != (0, size, 1):
            bounds.append((start, end, x.axes[axis], strides[axis]))
    if not bounds:
        return x
    indices = [np.asarray(each, np.int64) for each in zip(*bounds, strict=True)]
    return graph.add(
        "Slice", [x, *indices], shape, dtype, channels_first=x.channels_first
    )


def gather(
    graph: Graph, params: Params, operands: Operands, shape: Shape, dtype: Any
) -> Value:
    """Adds a `Gather`, of entries along one axis that constants name."""
    x, indices = operands
    numbers, rank = params["dimension_numbers"], len(shape)
    if not isinstance(x, Tensor) or not isinstance(indices, np.ndarray):
        raise UnsupportedOperationError("takes entries that depend on images")
    axis, *others = numbers.start_index_map
    is_along_axis = (
        not others
        and numbers.collapsed_slice_dims == (axis,)
        and numbers.offset_dims == tuple(each for each in range(rank) if each != axis)
        and indices.shape == (shape[axis], 1)
        and all(
            each == axis or x.shape[each] in (None, params["slice_sizes"][each])
            for each in range(rank)
        )
    )
    if not is_along_axis or x.shape[axis] is None:
        raise UnsupportedOperationError("takes entries other than along one axis")
    kept = np.clip(indices.reshape(-1).astype(np.int64), 0, (x.shape[axis] or 1) - 1)
    return graph.add(
        "Gather",
        [x, kept],
        shape,
        dtype,
        channels_first=x.channels_first,
        attributes={"axis": x.axes[axis]},
    )


def pad(
    graph: Graph, params: Params, operands: Operands, shape: Shape, dtype: Any
) -> Value:
    """Adds a `Pad`."""
    x, value = operands
    if not isinstance(x, Tensor) or not isinstance(value, np.ndarray):
        raise UnsupportedOperationError("pads a constant, or with a tensor")
    amounts = np.zeros((2, len(shape)), np.int64)
    for place, (low, high, interior) in zip(
        x.axes, params["padding_config"], strict=True
    ):
        if interior:
            raise UnsupportedOperationError("puts padding between entries")
        amounts[:, place] = low, high
    if not amounts.any():
        return x
    return graph.add(
        "Pad",
        [x, amounts.reshape(-1), value.astype(dtype)],
        shape,
        dtype,
        channels_first=x.channels_first,
    )


def reduction(name: str) -> Operator:
    """Returns the function of a reduction that ONNX has under another name."""

    def apply(
        graph: Graph, params: Params, operands: Operands, shape: Shape, dtype: Any
    ) -> Value:
        (x,) = operands
        assert isinstance(x, Tensor)
        axes, rank = set(params["axes"]), len(x.shape)
        if not axes:  # which ONNX takes for all
            return x
        # What is left must be in order: without the channels, or they alone.
        if x.channels_first and rank - 1 not in axes and len(axes) < rank - 2:
            moved = graph.stored(x, channels_first=False)
            assert isinstance(moved, Tensor)
            x = moved
        places = sorted(x.axes[axis] for axis in axes)
        inputs: list[Value] = [x]
        attributes: dict[str, Any] = {"keepdims": 0}
        if name == "ReduceSum":  # the first whose axes became an input
            inputs.append(np.asarray(places, np.int64))
        else:
            attributes["axes"] = places
        return graph.add(name, inputs, shape, dtype, attributes=attributes)

    return apply
