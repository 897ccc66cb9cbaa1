"""A model's variables and the calls of its layers, by shapes alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """One call of one module.

    Attributes:
      path: The module's path in the model, '/'-joined; empty for the model itself.
      layer: The module's class.
      output_shape: The shape of the (first) array it returned.
      output_dtype: The dtype of that array.
      parameters: The shapes of the parameters it owns itself, by name; those of its
        submodules are in their calls.
      num_inner_calls: How many module calls it made, directly or not.
      runs: Whether the call itself makes it; False where only the initialisation does,
        as for auxiliary heads that serve training alone.
    """

    path: str
    layer: type
    output_shape: tuple[int, ...]
    output_dtype: jnp.dtype
    parameters: Mapping[str, tuple[int, ...]]
    num_inner_calls: int
    runs: bool


def init_variables(model: Any, key: jax.Array, images: jax.Array) -> dict[str, Any]:
    """Initialises a model.

    Linen modules get a key for dropout, too: they draw nothing with it, but modules of
    NNX, through `flax.nnx.bridge.to_linen`, make their generators here.

    Args:
      model: A linen module, or anything with its `init`.
      key: The key that the parameters are drawn with.
      images: A batch `(n, height, width, channels)`, of which only shape and dtype
        count.

    Returns:
      `{"params": ..., ...}`, as `model.init` gives them.
    """
    keys: Any = key
    if isinstance(model, nn.Module):
        keys = {"params": key, "dropout": jax.random.fold_in(key, 1)}
    variables: dict[str, Any] = model.init(keys, images, train=False)
    return variables


def abstract_variables(model: Any, images: Any) -> dict[str, Any]:
    """Returns the shapes and dtypes of what `model.init` makes, computing nothing.

    Args:
      model: A linen module that is called as `model(images, train=False)`.
      images: A batch `(n, height, width, channels)`, or its shape and dtype alone.

    Returns:
      `{"params": ..., ...}` with a `jax.ShapeDtypeStruct` for each leaf.

    Raises:
      ValueError: If the model does not take such images; the error is the model's own.
    """
    variables: dict[str, Any] = jax.eval_shape(
        lambda key, images: init_variables(model, key, images),
        jax.eval_shape(jax.random.key, 0),
        images,
    )
    return variables


def trace_layers(
    model: nn.Module, inputs: jax.ShapeDtypeStruct, **arguments: Any
) -> tuple[LayerCall, ...]:
    """Records every module call of `model.apply(variables, inputs, **arguments)`.

    The model is traced with `jax.eval_shape`: no parameter is created and nothing is
    compiled.

    Args:
      model: A linen module that draws no random numbers under these arguments.
      inputs: Shape and dtype of its input.
      **arguments: Further keyword arguments of the call, such as `train=False`.

    Returns:
      The calls in the order in which they returned, so inner ones stand before the
      one that made them and the model itself comes last; behind it the modules that
      only `model.init` calls.
    """

    def initialize(key, x):
        return model.init(key, x, **arguments)

    def apply(variables, x):
        return model.apply(variables, x, **arguments)

    key = jax.eval_shape(jax.random.key, 0)
    initial, variables = _record(initialize, key, inputs, runs=False)
    calls, _ = _record(apply, variables, inputs, runs=True)
    called = {call.path for call in calls}
    return *calls, *(call for call in initial if call.path not in called)


def _record(
    function: Callable[..., Any], *arguments: Any, runs: bool
) -> tuple[list[LayerCall], Any]:
    """Traces a function and returns the module calls that it makes, and its result."""
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
        first = jax.tree.leaves(output)[0]
        calls.append(
            LayerCall(
                path="/".join(module.path),
                layer=type(module),
                output_shape=tuple(first.shape),
                output_dtype=jnp.dtype(first.dtype),
                parameters={
                    name: tuple(value.shape)
                    for name, value in owned.items()
                    if not isinstance(value, Mapping)
                },
                num_inner_calls=len(calls) - num_before,
                runs=runs,
            )
        )
        return output

    with nn.intercept_methods(record):
        result = jax.eval_shape(function, *arguments)
    return calls, result
