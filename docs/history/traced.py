"""Networks as graphs of their steps, read from the program that JAX traces.

Nothing here knows an architecture: kernel sizes, channels, groups, branches and
shortcuts are those of the jaxpr of `model.apply`, whose equations carry the path of the
module that made them.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import cnn_jax
from cnn_jax.layers import abstract_variables

WEIGHTED = ("conv", "pointwise", "depthwise", "grouped", "dense")
"""Kinds of steps that count as a layer of depth."""

POOLS = {
    "_max_pool": "max pool",
    "_avg_pool": "average pool",
    "_global_avg_pool": "global average pool",
    "_adaptive_avg_pool": "average pool",
}
ACTIVATIONS = {
    "_relu": "ReLU",
    "_relu6": "ReLU6",
    "_silu": "SiLU",
    "_gelu": "GELU",
    "_hard_swish": "hard swish",
    "tanh": "tanh",
    "logistic": "sigmoid",
}
NORMS = {
    "_batch_norm_inference": "batch norm",
    "_normalize_sets": "layer norm",
    "_local_response_norm": "local response norm",
}
SILENT = {"_add_bias"}
"""Operations that belong to the step before them, and are not named."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One operation on the images of a network.

    Attributes:
      kind: What it is drawn as: one of `WEIGHTED`, "pool", "gate", "norm",
        "activation", "add", "multiply", "concat", "split" or "shuffle".
      text: Its name with its sizes, such as "3×3 conv, 64".
      scope: The '/'-joined path of the module that made it.
      inputs: The numbers of the steps that it reads; -1 is the network's input.
      shape: The shape of its output, without the batch.
      reads: The shape of its first input, likewise.
    """

    kind: str
    text: str
    scope: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    reads: tuple[int, ...]


@functools.cache
def trace(name: str, *, open_gates: bool = False) -> tuple[Step, ...]:
    """Returns the steps of a registered network, in the order of the program.

    Args:
      name: The network's name.
      open_gates: Whether squeeze-and-excite gates are given as their operations.
    """
    info = cnn_jax.model_info(name)
    model = cnn_jax.create_model(name)
    images = jax.ShapeDtypeStruct((1, *info.input_shape), jnp.float32)
    variables = abstract_variables(model, images)
    program = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))
    jaxpr = program(variables, images).jaxpr
    steps: list[Step] = []
    _read(jaxpr, {jaxpr.invars[-1]: -1}, steps, "", open_gates)
    return tuple(steps)


def depth(name: str) -> int:
    """Returns the most convolutions and dense layers on a path through a network.

    The two small dense layers of a squeeze-and-excite gate are not counted.
    """
    longest: dict[int, int] = {-1: 0}
    for number, step in enumerate(trace(name)):
        before = max(longest[source] for source in step.inputs)
        longest[number] = before + (step.kind in WEIGHTED)
    return max(longest.values())


def layers(name: str) -> list[tuple[str, int]]:
    """Returns kind and side of the output for each layer with weights, in order."""
    return [
        (step.kind, step.shape[0] if len(step.shape) == 3 else 1)
        for step in trace(name)
        if step.kind in WEIGHTED
    ]


def _read(
    jaxpr: Any, known: dict[Any, int], steps: list[Step], scope: str, open_gates: bool
) -> None:
    """Appends a jaxpr's steps; `known` maps variables of images to their step."""
    for equation in jaxpr.eqns:
        tracked = [v for v in equation.invars if not _is_literal(v) and v in known]
        if not tracked:
            continue
        inputs = tuple(known[v] for v in tracked)
        path = scope or str(equation.source_info.name_stack)
        name = operation(equation)
        if name == "_squeeze_excite" and open_gates:
            inner = equation.params["call_jaxpr"].jaxpr
            opened = {
                variable: known[outer]
                for variable, outer in zip(inner.invars, equation.invars, strict=True)
                if not _is_literal(outer) and outer in known
            }
            _read(inner, opened, steps, path, open_gates)
            known[equation.outvars[0]] = len(steps) - 1
            continue
        described = _describe(equation, name, tracked)
        if described is None or (name == "add" and len(set(inputs)) == 1):
            known[equation.outvars[0]] = inputs[0]
            continue
        kind, text = described
        shape = tuple(equation.outvars[0].aval.shape[1:])
        if kind == "shuffle":  # the reshape behind it joins the last two again
            shape = (*shape[:-2], shape[-2] * shape[-1])
        steps.append(
            Step(kind, text, path, inputs, shape, tuple(tracked[0].aval.shape[1:]))
        )
        known[equation.outvars[0]] = len(steps) - 1


def operation(equation: Any) -> str:
    """Returns a kernel's function name, or the primitive's."""
    if equation.primitive.name == "custom_vjp_call":
        info = equation.params["call_jaxpr"].jaxpr.debug_info.func_src_info
        return str(info).split(" ")[0]
    return str(equation.primitive.name)


def _describe(equation: Any, name: str, tracked: list[Any]) -> tuple[str, str] | None:
    """Returns kind and text of what is drawn, or None where nothing is."""
    before = tuple(tracked[0].aval.shape)
    after = tuple(equation.outvars[0].aval.shape)
    if name == "_conv":
        return _describe_conv(equation, before, after)
    if name in ("_dense", "dot_general"):
        if len(after) == 4:
            return "pointwise", f"1\u00d71 conv, {after[-1]}"
        return "dense", f"dense, {after[-1]}"
    same = before[1:3] == (1, 1) or before[1:3] == after[1:3]
    if name in ("_adaptive_avg_pool", "_global_avg_pool") and same:
        return None
    if name in POOLS:
        return "pool", POOLS[name] + _window(equation, before, after)
    if name in NORMS:
        fused = _fused_activation(equation) if name == "_batch_norm_inference" else ""
        return "norm", NORMS[name] + (f", {fused}" if fused else "")
    if name == "_squeeze_excite":
        hidden = equation.invars[1].aval.shape[-1]
        return "gate", f"gate: {before[-1]} → {hidden} → {before[-1]}"
    if name in ACTIVATIONS:
        return "activation", ACTIVATIONS[name]
    if name == "custom_jvp_call":
        return "activation", "ReLU"
    if name == "reduce_sum":
        return "pool", "mean over the image"
    if name == "concatenate":
        return "concat", f"concatenate, {after[-1]}"
    if name == "slice" and after[-1] < before[-1]:
        return "split", f"{after[-1]} of {before[-1]} channels"
    if name == "transpose" and len(before) == 5:
        return "shuffle", "channel shuffle"
    if len(tracked) == 2 and name in ("add", "mul"):
        return ("add", "+") if name == "add" else ("multiply", "\u00d7")
    return None


def _describe_conv(
    equation: Any, before: tuple[int, ...], after: tuple[int, ...]
) -> tuple[str, str]:
    height, width, channels, features = equation.invars[1].aval.shape
    groups = before[-1] // channels
    stride = _strides(equation, before, after)
    kind = "conv"
    if groups == before[-1] and groups > 1:
        kind, word = "depthwise", "depthwise"
    elif groups > 1:
        kind, word = "grouped", "conv"
    else:
        kind, word = ("pointwise" if height == width == 1 else "conv"), "conv"
    text = f"{height}\u00d7{width} {word}, {features}"
    text += f", {groups} groups" if kind == "grouped" else ""
    return kind, text + (f" /{stride}" if stride > 1 else "")


def _strides(equation: Any, before: tuple[int, ...], after: tuple[int, ...]) -> int:
    for inner in _equations(equation.params):
        if inner.primitive.name == "conv_general_dilated":
            return int(inner.params["window_strides"][0])
    return round(before[1] / after[1])


def _window(equation: Any, before: tuple[int, ...], after: tuple[int, ...]) -> str:
    for inner in _equations(equation.params):
        if "window_dimensions" in inner.params:
            side = inner.params["window_dimensions"][1]
            stride = inner.params["window_strides"][1]
            return f", {side}\u00d7{side}" + (f" /{stride}" if stride > 1 else "")
    return ""


def _equations(params: Mapping[str, Any]) -> Iterator[Any]:
    """Yields all equations inside an equation's parameters."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(part, "jaxpr", part)
            for inner in getattr(jaxpr, "eqns", ()):
                yield inner
                yield from _equations(inner.params)


PROBE = np.array([-8.0, -1.0, 1.0, 8.0], np.float32)

ANSWERS = {
    "": PROBE,
    "ReLU": np.maximum(PROBE, 0),
    "ReLU6": np.clip(PROBE, 0, 6),
    "SiLU": PROBE / (1 + np.exp(-PROBE)),
    "hard swish": PROBE * np.clip(PROBE + 3, 0, 6) / 6,
}
"""Each activation's output for `PROBE`."""


def _fused_activation(equation: Any) -> str:
    """Returns the activation that a normalisation ends in, found by running it.

    Mean and bias are 0, variance and scale 1, so what comes out is the activation of
    what goes in.

    Raises:
      ValueError: If it is none of `ANSWERS`.
    """
    jaxpr = equation.params["call_jaxpr"].jaxpr
    return _named_activation(_Key(jaxpr))


class _Key:
    """A jaxpr that is equal to others which compute the same on other shapes."""

    def __init__(self, jaxpr: Any):
        self.jaxpr = jaxpr
        self.text = re.sub(
            r"\[[\d,]*\]|0x\w+|\(\d[\d, ]*\)|limit_indices=\S+", "", str(jaxpr)
        )

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.text == other.text


@functools.cache
def _named_activation(key: _Key) -> str:
    first, *others = key.jaxpr.invars

    @jax.jit
    def run(value):
        x = jnp.full(first.aval.shape, value)
        # In the kernel's order: mean, variance, scale and bias.
        rest = [
            jnp.full(v.aval.shape, one)
            for v, one in zip(others, (0.0, 1.0, 1.0, 0.0), strict=True)
        ]
        return jax.core.eval_jaxpr(key.jaxpr, (), x, *rest)[0].ravel()[0]

    found = [float(run(value)) for value in PROBE]
    for name, expected in ANSWERS.items():
        if np.allclose(np.array(found), expected, atol=2e-2):
            return name
    raise ValueError(f"got {found} for {PROBE.tolist()}, expected a known activation.")


def _is_literal(variable: Any) -> bool:
    return hasattr(variable, "val")
