"""Norms folded into the convolutions before them, and other simplifications.

In inference a norm is y = x m + a per channel. After a convolution, or a matrix
product, it is part of that: m scales the filters and the bias, and a is added to the
bias. Where an activation or padding is in between it stays, as one product and one sum.
Constants are folded in float64 and rounded once.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from cnn_jax.export.onnx.graph import Graph, Node, size_of

_LINEAR = ("Conv", "MatMul", "Gemm")

_COMMUTATIVE = ("Add", "Mul", "Min", "Max")

_UNIT = 2**-22
"""The distance from 1 of a factor that came of x and of 1 / x, rounded to float32."""


def fold(graph: Graph) -> Graph:
    """Simplifies a graph in place and returns it."""
    while _pass(graph):
        pass
    _drop_unused(graph)
    return graph


def _pass(graph: Graph) -> bool:
    """Tries every rule on every pair of a node and its only user."""
    _drop_unused(graph)
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    uses[graph.output.name] += 1
    makers = {node.output: node for node in graph.nodes}
    renamed: dict[str, str] = {}
    changed = False
    kept = []
    for node in graph.nodes:
        node.inputs = [renamed.get(name, name) for name in node.inputs]
        if node.operator in _COMMUTATIVE and node.inputs[0] in graph.constants:
            node.inputs.reverse()
        maker = makers.get(node.inputs[0])
        if _is_nothing(graph, node):
            replaced = node.inputs[0]
        elif (
            maker is not None
            and uses[maker.output] == 1
            and any(rule(graph, maker, node) for rule in _RULES)
        ):
            replaced = maker.output
        elif (back := _transposed_back(makers, node)) is not None:
            replaced = back
        else:
            kept.append(node)
            if maker is not None and uses[maker.output] == 1:
                changed |= _product_first(graph, maker, node)
            continue
        changed = True
        # It has lost its node, and what it was renamed to gains its users.
        renamed[node.output] = replaced
        uses[replaced] += uses[node.output] - 1
    graph.nodes = kept
    graph.output = graph.tensors[renamed.get(graph.output.name, graph.output.name)]
    return changed


def _is_nothing(graph: Graph, node: Node) -> bool:
    """Returns whether a node adds 0 or multiplies by 1."""
    if node.operator not in ("Add", "Mul") or node.inputs[1] not in graph.constants:
        return False
    array = graph.constants[node.inputs[1]]
    before = graph.tensors.get(node.inputs[0])
    if before is None or before.shape != graph.tensors[node.output].shape:
        return False
    if node.operator == "Add":
        return not array.any()
    return bool(np.all(np.abs(array - 1) <= _UNIT))


def _into_linear(graph: Graph, maker: Node, node: Node) -> bool:
    """Makes a product or a sum per channel a part of what is linear before it."""
    if maker.operator not in _LINEAR or node.operator not in ("Add", "Mul"):
        return False
    row = _row(graph, maker, node)
    if row is None:
        return False
    weights = graph.constants[maker.inputs[1]].astype(np.float64)
    bias = np.zeros(row.shape)
    if len(maker.inputs) == 3:
        bias = graph.constants[maker.inputs[2]].astype(np.float64)
    if node.operator == "Mul":
        is_conv = maker.operator == "Conv"
        weights = weights * (
            row.reshape(-1, *[1] * (weights.ndim - 1)) if is_conv else row
        )
        bias = bias * row
    else:
        bias = bias + row
    names = [maker.inputs[0], graph.constant(weights)]
    if len(maker.inputs) == 3 or node.operator == "Add":
        names.append(graph.constant(bias))
        maker.operator = "Gemm" if maker.operator == "MatMul" else maker.operator
    maker.inputs = names
    return True


def _row(graph: Graph, maker: Node, node: Node) -> np.ndarray | None:
    """Returns a constant as one number for each channel that the maker gives."""
    if node.inputs[1] not in graph.constants:
        return None
    array = graph.constants[node.inputs[1]].astype(np.float64)
    tensor = graph.tensors[maker.output]
    if graph.tensors[node.output].shape != tensor.shape:
        return None
    rank, channels = len(tensor.shape), size_of(tensor.shape[-1:])
    place = tensor.axes[-1]
    shape = (1,) * (rank - array.ndim) + array.shape
    if any(size != 1 for axis, size in enumerate(shape) if axis != place):
        return None
    return np.broadcast_to(array.reshape(-1), (channels,)).copy()


def _into_sum_or_product(graph: Graph, maker: Node, node: Node) -> bool:
    """Joins sums and products by constants, as one product and then one sum."""
    pair = maker.operator, node.operator
    both = _both_constants(graph, maker, node)
    if both is None or pair not in (("Add", "Add"), ("Mul", "Mul")):
        return False
    joined = both[0] + both[1] if pair[0] == "Add" else both[0] * both[1]
    maker.inputs = [maker.inputs[0], graph.constant(joined)]
    return True


def _product_first(graph: Graph, maker: Node, node: Node) -> bool:
    """Makes (x + a) m, whose product cannot join others, x m + a m."""
    both = _both_constants(graph, maker, node)
    if both is None or (maker.operator, node.operator) != ("Add", "Mul"):
        return False
    added, factor = both
    maker.operator, node.operator = "Mul", "Add"
    maker.inputs = [maker.inputs[0], graph.constant(factor)]
    node.inputs = [maker.output, graph.constant(added * factor)]
    return True


def _both_constants(
    graph: Graph, maker: Node, node: Node
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the constants of two sums or products, if they join to none larger."""
    if not {maker.operator, node.operator} <= {"Add", "Mul"}:
        return None
    names = maker.inputs[1], node.inputs[1]
    if not all(name in graph.constants for name in names):
        return None
    first, second = (graph.constants[name].astype(np.float64) for name in names)
    shapes = [graph.tensors[each.output].shape for each in (maker, node)]
    joined = np.broadcast_shapes(first.shape, second.shape)
    if shapes[0] != shapes[1] or joined not in (first.shape, second.shape):
        return None
    return first, second


def _into_mean(graph: Graph, maker: Node, node: Node) -> bool:
    """Makes a sum that is divided by how many there were a mean."""
    if maker.operator != "ReduceSum" or node.operator != "Mul":
        return False
    if node.inputs[1] not in graph.constants:
        return False
    factor = graph.constants[node.inputs[1]]
    summed = graph.tensors[maker.inputs[0]]
    places = [int(place) for place in graph.constants[maker.inputs[1]]]
    sizes = [
        summed.shape[axis] for axis, place in enumerate(summed.axes) if place in places
    ]
    if factor.size != 1 or None in sizes:
        return False
    count = np.prod([size for size in sizes if size is not None])
    if abs(float(factor.reshape(())) * count - 1) > _UNIT:
        return False
    maker.operator, maker.inputs = "ReduceMean", maker.inputs[:1]
    maker.attributes["axes"] = places
    return True


def _into_clip(graph: Graph, maker: Node, node: Node) -> bool:
    """Makes a lower and then an upper bound one `Clip`."""
    if maker.operator not in ("Relu", "Max") or node.operator != "Min":
        return False
    bounds = [np.zeros(())] if maker.operator == "Relu" else []
    for name in (*maker.inputs[1:], *node.inputs[1:]):
        if name not in graph.constants or graph.constants[name].size != 1:
            return False
        bounds.append(graph.constants[name].reshape(()))
    low, high = bounds
    if low > high:
        return False
    maker.operator = "Clip"
    dtype = graph.tensors[maker.output].dtype
    maker.inputs = maker.inputs[:1]
    maker.inputs += [graph.constant(bound.astype(dtype)) for bound in (low, high)]
    return True


def _transposed_back(makers: dict[str, Node], node: Node) -> str | None:
    """Returns what a transposition of a transposition is, if they cancel."""
    maker = makers.get(node.inputs[0])
    if node.operator != "Transpose" or maker is None or maker.operator != "Transpose":
        return None
    first, second = maker.attributes["perm"], node.attributes["perm"]
    is_inverse = [first[place] for place in second] == list(range(len(first)))
    return maker.inputs[0] if is_inverse else None


_RULES = (_into_linear, _into_sum_or_product, _into_mean, _into_clip)


def _drop_unused(graph: Graph) -> None:
    """Drops nodes and constants that nothing uses."""
    needed = {graph.output.name}
    kept = []
    for node in reversed(graph.nodes):
        if node.output in needed:
            kept.append(node)
            needed.update(node.inputs)
    graph.nodes = kept[::-1]
    graph.constants = {
        name: array for name, array in graph.constants.items() if name in needed
    }
