"""A graph of ONNX's operators, before it is a file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Shape = tuple[int | None, ...]
"""None is the batch."""


class UnsupportedOperationError(ValueError):
    """An operation of a layer that this project has no ONNX operator for."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The result of a node, or the graph's input.

    Attributes:
      name: Its name in the graph.
      shape: Its shape in the jaxpr, channels last.
      dtype: Its dtype.
      channels_first: Whether it is stored with its last axis behind the first.
    """

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    channels_first: bool = False

    @property
    def axes(self) -> tuple[int, ...]:
        """The place where each axis of `shape` is stored."""
        rank = len(self.shape)
        if not self.channels_first:
            return tuple(range(rank))
        return (0, *range(2, rank), 1)


Value = Tensor | np.ndarray
"""A tensor of the graph, or a constant, which broadcasts to its shape in the jaxpr."""


@dataclasses.dataclass
class Node:
    """One operator.

    Attributes:
      operator: ONNX's name of it.
      inputs: The names of tensors and constants, as ONNX orders them.
      output: The name of the tensor it gives.
      attributes: ONNX's attributes.
      layer: The path of the layer that it is part of, '/'-joined.
    """

    operator: str
    inputs: list[str]
    output: str
    attributes: dict[str, Any]
    layer: str


class Graph:
    """Nodes in the order of computation.

    Attributes:
      nodes: The nodes.
      constants: Name -> array; floating-point ones become float32 in the file.
      tensors: Name -> tensor, of the input and of every node's output.
      input: The images.
      output: The logits.
      layer: The path of the layer whose nodes are being added.
    """

    def __init__(self, shape: Shape, dtype: np.dtype[Any]):
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.input: Tensor = Tensor("images", shape, dtype)
        self.output: Tensor = self.input
        self.tensors: dict[str, Tensor] = {"images": self.input}
        self.layer: str = ""
        self._num_constants = 0
        self._moved: dict[tuple[str, bool], Tensor] = {}

    def add(
        self,
        operator: str,
        inputs: Sequence[Tensor | np.ndarray],
        shape: Shape,
        dtype: Any,
        *,
        channels_first: bool = False,
        attributes: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Adds a node and returns what it gives; constants are stored as they are."""
        names = [
            each.name if isinstance(each, Tensor) else self.constant(each)
            for each in inputs
        ]
        tensor = Tensor(
            f"t{len(self.tensors)}", tuple(shape), np.dtype(dtype), channels_first
        )
        self.tensors[tensor.name] = tensor
        self.nodes.append(
            Node(operator, names, tensor.name, dict(attributes or {}), self.layer)
        )
        return tensor

    def constant(self, array: np.ndarray) -> str:
        """Stores a constant and returns its name."""
        name = f"c{self._num_constants}"  # one that no dropped constant had
        self._num_constants += 1
        self.constants[name] = np.asarray(array)
        return name

    def stored(self, value: Value, *, channels_first: bool) -> Value:
        """Returns a value in another order of its axes, transposed if it has to be."""
        if isinstance(value, np.ndarray):
            is_moved = channels_first and value.ndim > 2
            return np.moveaxis(value, -1, 1) if is_moved else value
        if len(value.shape) <= 2 or value.channels_first == channels_first:
            return value
        key = value.name, channels_first
        if key not in self._moved:
            rank = len(value.shape)
            order = (0, rank - 1, *range(1, rank - 1))
            if not channels_first:
                order = (0, *range(2, rank), 1)
            self._moved[key] = self.add(
                "Transpose",
                [value],
                value.shape,
                value.dtype,
                channels_first=channels_first,
                attributes={"perm": order},
            )
        return self._moved[key]

    def aligned(self, *values: Value) -> tuple[bool, list[Value]]:
        """Returns values in one order, and whether it is channels first.

        One that has its channels first takes the others with it: what comes between
        convolutions stays as they need it.
        """
        first = any(isinstance(each, Tensor) and each.channels_first for each in values)
        return first, [self.stored(each, channels_first=first) for each in values]

    def reshaped(self, value: Tensor, shape: Shape) -> Tensor:
        """Returns a tensor in another shape, without a transposition if none is needed.

        Raises:
          UnsupportedOperationError: If the batch would become a part of another axis.
        """
        if value.shape == shape:
            return value
        if shape.count(None) != value.shape.count(None) or shape.count(None) > 1:
            raise UnsupportedOperationError(f"reshapes its batch to {shape}")
        sizes = _sizes(_stored_shape(value.shape, value.channels_first))
        for first in (True, False):
            is_possible = len(shape) > 2 or not first
            # Then only axes of one entry come or go.
            if is_possible and _sizes(_stored_shape(shape, first)) == sizes:
                return self._reshape(value, shape, first)
        moved = self.stored(value, channels_first=False)
        assert isinstance(moved, Tensor)
        return self._reshape(moved, shape, False)

    def _reshape(self, value: Tensor, shape: Shape, channels_first: bool) -> Tensor:
        target = _stored_shape(shape, channels_first)
        sizes = np.asarray([-1 if size is None else size for size in target], np.int64)
        return self.add(
            "Reshape",
            [value, sizes],
            shape,
            value.dtype,
            channels_first=channels_first,
        )


def size_of(shape: Sequence[int | None]) -> int:
    """Returns the product of sizes; raises for the batch."""
    if None in shape:
        raise UnsupportedOperationError("computes with the size of its batch")
    return math.prod(size for size in shape if size is not None)


def _stored_shape(shape: Shape, channels_first: bool) -> Shape:
    return (shape[0], shape[-1], *shape[1:-1]) if channels_first else shape


def _sizes(shape: Shape) -> list[int | None]:
    return [size for size in shape if size != 1]
