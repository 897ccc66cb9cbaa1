"""lax's operations as ONNX's operators, by the names of their primitives.

Each function of the table adds nodes for one equation of a jaxpr: it takes the graph,
the equation's parameters and operands, and the shape and dtype of its result.
"""

from __future__ import annotations

from cnn_jax.export.onnx import elementwise, shapes, windows
from cnn_jax.export.onnx.elementwise import Operator

_SAME = {
    "abs": "Abs",
    "add": "Add",
    "add_any": "Add",
    "and": "And",
    "ceil": "Ceil",
    "eq": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "not": "Not",
    "or": "Or",
    "pow": "Pow",
    "sign": "Sign",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
}
"""Those that have one operator, of another name."""

OPERATORS: dict[str, Operator] = {
    **{name: elementwise.named(operator) for name, operator in _SAME.items()},
    "broadcast_in_dim": shapes.broadcast,
    "clamp": elementwise.clamp,
    "concatenate": shapes.concatenate,
    "conv_general_dilated": windows.convolve,
    "convert_element_type": elementwise.convert,
    "div": elementwise.divide,
    "dot_general": windows.multiply_matrices,
    "erfc": elementwise.erfc,
    "gather": shapes.gather,
    "integer_pow": elementwise.integer_pow,
    "max": elementwise.maximum,
    "pad": shapes.pad,
    "reduce_max": shapes.reduction("ReduceMax"),
    "reduce_min": shapes.reduction("ReduceMin"),
    "reduce_sum": shapes.reduction("ReduceSum"),
    "reduce_window_max": windows.max_pool,
    "reduce_window_sum": windows.sum_pool,
    "reshape": shapes.reshape,
    "rsqrt": elementwise.inverse_root,
    "select_n": elementwise.select,
    "slice": shapes.take_slice,
    "square": elementwise.square,
    "squeeze": shapes.reshape,
    "sub": elementwise.subtract,
    "transpose": shapes.transpose,
}
"""The operations of inference that have operators, of opset 17."""

ELEMENTWISE = {
    *_SAME,
    *("clamp", "convert_element_type", "div", "erfc", "integer_pow", "max", "rsqrt"),
    *("select_n", "square", "sub"),
}
"""Those of them whose operands broadcast."""
