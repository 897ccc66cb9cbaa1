"""Rebuilding the model of this project's weights from their metadata."""

from __future__ import annotations

import contextlib
import os

import flax.linen as nn
import jax

from cnn_jax.files import reading
from cnn_jax.models import create_model
from cnn_jax.pretrained.files import OwnWeights, check_exists


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
    with contextlib.ExitStack() as stack:
        if name == own.model:  # else it is not the file that is wrong
            found = "weights of a model that cannot be made"
            stack.enter_context(reading(location, "one of this version's", found=found))
        return create_model(
            name,
            num_classes=own.num_classes if num_classes is None else num_classes,
            dtype=own.dtype,
            param_dtype=jax.dtypes.canonicalize_dtype(own.param_dtype),
            **(own.fields if name == own.model else {}),
        )
