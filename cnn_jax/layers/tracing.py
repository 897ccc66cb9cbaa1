"""What a model's layers do to shapes, recorded without computing anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """One call of one module.

    Attributes:
      path: The module's path in the model, '/'-joined; empty for the model itself.
      layer: The module's class.
      output_shape: The shape of the (first) array it returned.
      parameters: The shapes of the parameters it owns itself, by name; those of its
        submodules are in their calls.
      num_inner_calls: How many module calls it made, directly or not.
    """

    path: str
    layer: type
    output_shape: tuple[int, ...]
    parameters: Mapping[str, tuple[int, ...]]
    num_inner_calls: int


def trace_layers(
    model: nn.Module, inputs: jax.ShapeDtypeStruct, **arguments: object
) -> tuple[LayerCall, ...]:
    """Records every module call of `model.init(key, inputs, **arguments)`.

    The model is traced with `jax.eval_shape`: no parameter is created and nothing is
    compiled.

    Args:
      model: A linen module.
      inputs: Shape and dtype of its input.
      **arguments: Further keyword arguments of the call, such as `train=False`.

    Returns:
      The calls in the order in which they returned, so inner ones stand before the
      one that made them and the model itself comes last.
    """
    calls: list[LayerCall] = []
    running: list[nn.Module] = []

    def record(next_fn, args, kwargs, context):
        module = context.module
        # A module that is running already calls its superclass: one call, not two.
        inherited = any(module is other for other in running)
        if context.method_name != "__call__" or inherited:
            return next_fn(*args, **kwargs)
        num_before = len(calls)
        running.append(module)
        try:
            output = next_fn(*args, **kwargs)
        finally:
            running.pop()
        owned = module.variables.get("params", {})
        calls.append(
            LayerCall(
                path="/".join(module.path),
                layer=type(module),
                output_shape=tuple(jax.tree.leaves(output)[0].shape),
                parameters={
                    name: tuple(value.shape)
                    for name, value in owned.items()
                    if not isinstance(value, Mapping)
                },
                num_inner_calls=len(calls) - num_before,
            )
        )
        return output

    def initialize(key, x):
        return model.init(key, x, **arguments)

    with nn.intercept_methods(record):
        jax.eval_shape(initialize, jax.eval_shape(jax.random.key, 0), inputs)
    return tuple(calls)
