"""Rebuilding the model of this project's weights from their metadata."""

from __future__ import annotations

import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax.files import reading
from cnn_jax.layers import abstract_variables
from cnn_jax.models import create_model
from cnn_jax.models.registry import sized_for
from cnn_jax.pretrained.files import OwnWeights, check_exists

_MAX_CALLS = 5_000
"""The most layers, and layers of layers, that are called: several times any model's."""


def rebuild(
    location: str | os.PathLike[str],
    own: OwnWeights | None,
    *,
    name: str | None = None,
    num_classes: int | None = None,
) -> nn.Module:
    """Returns the model that weights are for.

    Args:
      location: Where the weights are.
      own: What they say of themselves; None for weights that are not ours.
      name: The model's name in `list_models()`; None takes the one that they say. By
        another name than theirs, a model is made without their fields.
      num_classes: The number of logits; None takes what they say, or the model's usual
        number.

    Returns:
      A model with their fields, number of classes, dtype and dtype of parameters (that
      of float64 only where JAX has 64 bits enabled).

    Raises:
      FileNotFoundError: If no name is known and there is nothing at the location.
      ValueError: If no name is known, there is no such model, or it was made with a
        field that weights cannot hold.
    """
    own = OwnWeights() if own is None else own
    own.require_name(location)
    name = own.model if name is None else name
    if name is None:
        check_exists(location)
        raise ValueError(
            f"{location}: does not say which model's weights it has; name the model."
        )
    arguments: dict[str, Any] = {
        "num_classes": own.num_classes if num_classes is None else num_classes,
        "dtype": own.dtype,
        "param_dtype": jax.dtypes.canonicalize_dtype(own.param_dtype),
    }
    if name != own.model:
        return create_model(name, **arguments)
    with reading(
        location,
        "one that this version makes",
        found="weights of a model that cannot be made",
    ):
        model = create_model(name, **arguments, **own.fields)
        if own.fields:
            _check_size(model, own)
    return model


def _check_size(model: nn.Module, own: OwnWeights) -> None:
    """Traces a model that a file describes, and gives up on one without an end.

    Raises:
      ValueError: If it has more layers than any model here.
      Exception: Whatever its fields make it raise.
    """
    count = 0

    def call(method: Any, positional: Any, named: Any, context: Any) -> Any:
        nonlocal count
        count += 1
        if count > _MAX_CALLS:
            raise ValueError("it has thousands of layers")
        return method(*positional, **named)

    shape = own.preprocessing.get("input_shape") or sized_for(model)
    with nn.intercept_methods(call):
        images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        abstract_variables(model, images)
