"""What a run is of: the model and the data that it was given.

The configuration names both, for whoever makes them from it. `fit` is given them made,
so that what it records is what they are and not what the configuration would have made.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from typing import Any

from cnn_jax import data
from cnn_jax.models import list_models
from cnn_jax.models.registry import registered_as
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.config.regularization import MODEL_FIELDS

DESCRIPTIVE = ("model", "dataset", "train_split", "test_split")
"""Fields of the configuration that say what a run is of, and change no number."""

FOLDER = "folder:"


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
        if field not in MODEL_FIELDS
    }
    return {
        "name": None if found is None else found[0],
        "module": f"{kind.__module__}.{kind.__qualname__}",
        "changed": {
            # Without the addresses of functions, which differ from run to run.
            field: re.sub(r" at 0x[0-9a-f]+", "", repr(value))
            for field, value in changed.items()
        },
        "fields": {
            field: value for field, value in changed.items() if _is_plain(value)
        },
    }


def _is_plain(value: Any) -> bool:
    """Whether JSON holds a value, but for tuples, which it keeps as lists."""
    if type(value) in (tuple, list):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def described(
    config: TrainConfig,
    identity: dict[str, Any],
    train: data.Source,
    test: data.Source,
) -> TrainConfig:
    """Returns the configuration with the names of what the run is of.

    A name of no registered model is the caller's own for theirs, and stays.
    """
    model = identity["name"]
    if model is None:
        is_taken = config.model in list_models()
        model = identity["module"] if is_taken else config.model
    changes = {"model": model}
    if not _same_data(config.dataset, train.name):
        changes |= {
            "dataset": train.name,
            "train_split": train.split,
            "test_split": test.split,
        }
    return dataclasses.replace(config, **changes)


def _same_data(configured: str, name: str) -> bool:
    if configured.startswith(FOLDER) and name.startswith(FOLDER):
        configured, name = (
            str(pathlib.Path(each.removeprefix(FOLDER)).expanduser().absolute())
            for each in (configured, name)
        )
    return configured == name
