"""The model, the data and the own parts that a run was given, by their names.

The configuration names both, for whoever makes them from it. `fit` is given them made,
so that what it records is what they are and not what the configuration would have made.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from cnn_jax import checkpoint, data
from cnn_jax.data.sources.folder import absolute_name
from cnn_jax.models import list_models
from cnn_jax.models.registry import registered_as
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.config.regularization import REGULARIZERS
from cnn_jax.training.optimizers.optimizer import OWN_FIELDS
from cnn_jax.training.run.images import ImageFormat
from cnn_jax.training.run.keys import make_keys

DESCRIPTIVE = ("model", "dataset", "train_split", "test_split")
"""Fields of the configuration that say what a run is of, and change no number."""


def identify_model(model: Any, name: str) -> dict[str, Any]:
    """Returns what a model is, as `config.json` and checkpoints have it.

    Args:
      model: A model, registered or not.
      name: What the configuration calls it.

    Returns:
      `{"name", "module", "changed", "fields"}`: the registered name, or None; the
      qualified name of its class; what differs from the registered model, field ->
      value as text; and the values themselves of what JSON can hold, for
      `create_model(name, **fields)`. Regularisers are left out, which evaluation does
      not see.
    """
    kind = type(model)
    found = registered_as(model, prefer=name)
    changed = {
        field: value
        for field, value in ({} if found is None else found[1]).items()
        if field not in REGULARIZERS
    }
    return {
        "name": None if found is None else found[0],
        "module": f"{kind.__module__}.{kind.__qualname__}",
        "changed": {
            field: _without_addresses(repr(value)) for field, value in changed.items()
        },
        "fields": {
            field: value for field, value in changed.items() if _is_plain(value)
        },
    }


def identify_parts(
    optimizer: optax.GradientTransformation | None,
    loss_fn: Any,
    metrics: Mapping[str, Any] | None,
    params: Any,
) -> dict[str, Any]:
    """Returns the names of a caller's own parts, which no configuration can hold.

    Args:
      optimizer: An optax transformation, named by the states that it keeps; or None.
      loss_fn: A function, named by where it is defined; or None.
      metrics: Functions by name, likewise.
      params: Shapes and dtypes of the parameters.

    Returns:
      `{"optimizer", "loss_fn", "metrics"}`, those that were given, for JSON. Two parts
      of one name may differ all the same, as in a number that a function closes over.
    """
    parts: dict[str, Any] = {}
    if optimizer is not None:
        kinds = ", ".join(_state_kinds(jax.eval_shape(optimizer.init, params)))
        parts["optimizer"] = f"{_function_name(optimizer.update)} ({kinds})"
    if loss_fn is not None:
        parts["loss_fn"] = _function_name(loss_fn)
    if metrics:
        parts["metrics"] = {
            name: _function_name(function) for name, function in metrics.items()
        }
    return parts


def _state_kinds(state: Any) -> list[str]:
    """Returns the names of the states that an optimizer's is nested of, in order."""
    if not isinstance(state, tuple | list | dict):
        return []
    children = list(state.values() if isinstance(state, dict) else state)
    own = [type(state).__name__] if hasattr(state, "_fields") else []
    return own + [kind for child in children for kind in _state_kinds(child)]


def _function_name(function: Any) -> str:
    """Returns the qualified name of a function, with what a partial has bound."""
    if isinstance(function, functools.partial):
        bound = [repr(each) for each in function.args]
        bound += [f"{name}={value!r}" for name, value in function.keywords.items()]
        return _without_addresses(
            f"{_function_name(function.func)}({', '.join(bound)})"
        )
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _without_addresses(text: str) -> str:
    """Removes the addresses of functions, which differ from run to run."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _is_plain(value: Any) -> bool:
    """Returns whether JSON holds a value, but for tuples, which it keeps as lists."""
    if type(value) in (tuple, list):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def described(
    config: TrainConfig,
    identity: dict[str, Any],
    train: data.Source | data.Batches,
    test: data.Source | data.Batches | None,
) -> TrainConfig:
    """Returns the configuration with the names of the run's model and data.

    A name of no registered model is the caller's own for theirs, and stays. Batches of
    the caller's own decide the batch size.
    """
    model = identity["name"]
    if model is None:
        is_taken = config.model in list_models()
        model = identity["module"] if is_taken else config.model
    changes = {"model": model}
    if absolute_name(config.dataset) != absolute_name(train.name):
        changes |= {
            "dataset": train.name,
            "train_split": train.split,
            "test_split": "none" if test is None else test.split,
        }
    if isinstance(train, data.Batches):
        changes["batch_size"] = train.batch_size
    return dataclasses.replace(config, **changes)


def describe(
    config: TrainConfig,
    splits: Mapping[str, data.Source | data.Batches],
    identity: Mapping[str, Any],
    images: ImageFormat,
    own_parts: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns what a run is, as `config.json` and checkpoints have it.

    Args:
      config: Its configuration.
      splits: The datasets by name.
      identity: The model, from `identify_model`.
      images: The format of the model's images.
      own_parts: The caller's own parts, from `identify_parts`.
    """
    key, train = make_keys(config.seed).steps, splits["train"]
    described = config.to_dict()
    if "optimizer" in own_parts:
        described |= dict.fromkeys(OWN_FIELDS)
    return {
        "config": described,
        "model": dict(identity),
        **({"own_parts": dict(own_parts)} if own_parts else {}),
        "dataset": {name: split.fingerprint for name, split in splits.items()},
        # The same seed gives other keys under another generator.
        "random": {
            "generator": str(jax.random.key_impl(key)),
            "seed": np.asarray(jax.random.key_data(key)).tolist(),
        },
        # What the weights expect of an image, for whoever classifies with them.
        "images": {
            "class_names": list(train.class_names),
            **images.to_dict(),
        },
        "versions": checkpoint.installed_versions(),
    }
