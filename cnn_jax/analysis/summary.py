"""Parameters, multiply-adds and activations of a model, layer by layer.

The counts follow one rule: a layer that multiplies its input by a learned kernel does
`kernel.size / features` multiply-adds (MACs) for each number of its output, whether the
tap falls on the image or on the padding. Biases, normalisations, activations, pooling
and channel gates count as nothing, as in the papers' figures. One MAC is two
floating-point operations (FLOPs). XLA's own count (`Compiled.cost_analysis`) differs:
it counts two for a multiply-add, leaves padded taps out and includes the rest.

Activation bytes are those of the layer's output. What a training step keeps for the
backward pass is less where kernels are fused, or where blocks are recomputed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from cnn_jax.layers import LayerCall, trace_layers
from cnn_jax.ranges import Length, Whole, problem, shown

_SHAPE = Annotated[tuple[Annotated[int, Whole(0, 2**20)], ...], Length(1, 8)]
"""The shape of one example: the sides of an image, or a number of features."""


@dataclasses.dataclass(frozen=True)
class LayerSummary:
    """One layer of a model.

    Attributes:
      path: Its path in the model, '/'-joined.
      type: Its class name.
      output_shape: The shape of its output for one example, without the batch.
      parameters: The number of parameters it owns; 0 where it is called again.
      macs: The number of multiply-adds for one example; 0 for what runs in training
        only.
      activation_bytes: The bytes of its output for one example, likewise.
    """

    path: str
    type: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int
    activation_bytes: int

    @property
    def flops(self) -> int:
        """Floating-point operations for one example: two for each multiply-add."""
        return 2 * self.macs


@dataclasses.dataclass(frozen=True)
class Summary:
    """A model's layers in the order of their calls.

    Attributes:
      model: The model's class name.
      input_shape: The shape of one input example, without the batch.
      layers: The layers.
    """

    model: str
    input_shape: tuple[int, ...]
    layers: tuple[LayerSummary, ...]

    @property
    def parameters(self) -> int:
        """The number of parameters of all layers."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        """The number of multiply-adds for one example."""
        return sum(layer.macs for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """The bytes of all layers' outputs for one example."""
        return sum(layer.activation_bytes for layer in self.layers)

    @property
    def flops(self) -> int:
        """Floating-point operations for one example: two for each multiply-add."""
        return 2 * self.macs

    def to_dict(self) -> dict[str, Any]:
        """Returns layers and totals as plain dictionaries, lists and integers."""
        return {
            "model": self.model,
            "input_shape": list(self.input_shape),
            "parameters": self.parameters,
            "macs": self.macs,
            "flops": self.flops,
            "activation_bytes": self.activation_bytes,
            "layers": [
                {
                    "path": layer.path,
                    "type": layer.type,
                    "output_shape": list(layer.output_shape),
                    "parameters": layer.parameters,
                    "macs": layer.macs,
                    "activation_bytes": layer.activation_bytes,
                }
                for layer in self.layers
            ],
        }


def summarize(
    model: Any, input_shape: tuple[int, ...], *, dtype: Any = jnp.float32
) -> Summary:
    """Counts a model's parameters and multiply-adds without running it.

    Args:
      model: A linen module with the call `(x, train=False)`.
      input_shape: The shape of one example, such as `(32, 32, 3)`.
      dtype: The input's dtype.

    Returns:
      The summary. Its layers are the modules that own parameters or call no other.

    Raises:
      ValueError: If the shape is none, or a layer owns a kernel and no rule says what
        it multiplies.
    """
    if (expected := problem(input_shape, _SHAPE)) is not None:
        raise ValueError(f"input_shape: got {shown(input_shape)}, expected {expected}.")
    inputs = jax.ShapeDtypeStruct((1, *input_shape), dtype)
    seen: set[str] = set()
    layers = []
    for call in trace_layers(model, inputs, train=False):
        if call.num_inner_calls and not call.parameters:
            continue
        owned = sum(math.prod(shape) for shape in call.parameters.values())
        layers.append(
            LayerSummary(
                path=call.path,
                type=call.layer.__name__,
                output_shape=call.output_shape[1:],
                parameters=0 if call.path in seen else owned,
                macs=_count_macs(call) if call.runs else 0,
                activation_bytes=_output_bytes(call) if call.runs else 0,
            )
        )
        seen.add(call.path)
    return Summary(type(model).__name__, tuple(input_shape), tuple(layers))


def _output_bytes(call: LayerCall) -> int:
    return math.prod(call.output_shape[1:]) * call.output_dtype.itemsize


def _kernel_per_output(call: LayerCall) -> int:
    *inputs, _ = call.parameters["kernel"]
    return math.prod(call.output_shape) * math.prod(inputs)


def _kernel_once(call: LayerCall) -> int:
    return math.prod(call.parameters["kernel"])


# By class name, so that the namesakes of `flax.linen` are counted too.
_RULES: dict[str, Callable[[LayerCall], int]] = {
    "Conv": _kernel_per_output,
    "Dense": _kernel_per_output,
    # Passed to a kernel that multiplies one row of each example by it.
    "DenseParameters": _kernel_once,
}


def _count_macs(call: LayerCall) -> int:
    if "kernel" not in call.parameters:
        return 0
    for ancestor in call.layer.__mro__:
        if ancestor.__name__ in _RULES:
            return _RULES[ancestor.__name__](call)
    raise ValueError(
        f"{call.path or 'model'}: got a layer {call.layer.__name__} with a kernel, "
        f"expected one of {sorted(_RULES)} or a subclass; no rule says how many "
        "multiply-adds it does."
    )
