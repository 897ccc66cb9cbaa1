"""The values that the fields of registered models may have."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import flax.linen as nn

from cnn_jax.preprocessing import MAX_CHANNELS
from cnn_jax.ranges import MAX_SIDE, Length, Real, Whole, problem, shown

MAX_FEATURES = 2**20
"""The most channels of a layer."""

MAX_CLASSES = 2**20
"""The most logits: many times those of any set of labelled images."""

NUM_CLASSES = Annotated[int, Whole(0, MAX_CLASSES)]
"""The number of logits, or 0 for features."""

_Features = Annotated[int, Whole(1, MAX_FEATURES)]
_Small = Annotated[int, Whole(1, 1024)]
_Rate = Annotated[float, Real(1e-6, 0.999, or_zero=True)]

RANGES: Mapping[str, Any] = {
    "aux_dropout_rate": _Rate,
    "aux_heads": bool,
    "ceil_mode": bool,
    "drop_block_rate": _Rate,
    "drop_block_size": Annotated[int, Whole(1, MAX_SIDE)],
    "drop_inputs": bool,
    "dropout_rate": _Rate,
    "first_strides": _Small,
    "growth_rate": _Features,
    "head_features": _Features,
    "hidden_features": _Features,
    "in_channels": Annotated[int, Whole(1, MAX_CHANNELS)] | None,
    "inner_ratio": _Small,
    "last_features": _Features,
    "layer_scale_init": Annotated[float, Real(1e-12, 10.0, or_zero=True)],
    "padding": Literal["SAME", "VALID"] | None,
    "pooled_size": _Small,
    "remat": bool,
    "small_images": bool,
    "space_to_depth": bool,
    "spatial_dropout_rate": _Rate,
    "squeeze_ratio": Annotated[float, Real(1e-3, 1.0, or_zero=True)],
    "stage_features": _Features,
    "stage_sizes": Annotated[int, Whole(0, 1024)],
    "stem_features": _Features,
    "stem_size": _Small,
    "stem_strides": _Small,
    "stochastic_depth_rate": _Rate,
    "use_bias": bool,
    "width": Annotated[float, Real(1e-2, 100.0)],
}
"""By the field's name, which means the same in every family; of each entry, where the
module declares a tuple."""

MAY_BE_EMPTY = ("hidden_features",)
"""Fields whose tuple may have no entry."""

STRUCTURES = ("stages",)
"""Fields of nested tuples and tables of a network's layers."""

FUNCTIONS = ("activation", "block", "norm", "response_norm", "squeeze_excite")
"""Fields that hold functions or modules, or None."""


def check_fields(name: str, module: type[nn.Module], fields: Mapping[str, Any]) -> None:
    """Checks the values of a model's fields.

    Args:
      name: The model's name, for the error.
      module: Its class, which declares the fields.
      fields: The values by the fields' names; `num_classes` may be among them.

    Raises:
      ValueError: Listing what is of another type or outside its range.
    """
    declared = {field.name: str(field.type) for field in dataclasses.fields(module)}
    problems = []
    for field, value in fields.items():
        expected = _expected(field, declared[field], value)
        if expected is not None:
            problems.append(f"{field}: got {shown(value)}, expected {expected}")
    sizes, features = fields.get("stage_sizes"), fields.get("stage_features")
    if not problems and sizes and features and len(sizes) != len(features):
        problems.append(
            f"stage_features: got {len(features)} numbers, expected {len(sizes)}, one "
            "for each of stage_sizes"
        )
    if problems:
        raise ValueError(f"{name}: " + "; ".join(problems) + ".")


def _expected(field: str, declared: str, value: Any) -> str | None:
    """Returns what is expected of a field in place of a value; None if it is right."""
    if field == "num_classes":
        return problem(value, NUM_CLASSES)
    if field in STRUCTURES:
        is_structure = isinstance(value, tuple) and value
        return _structure_problem(value) if is_structure else "a tuple of layers"
    if field in FUNCTIONS:
        is_one = callable(value) or (value is None and declared.endswith("None"))
        return None if is_one else "a function or a module class"
    if not declared.startswith("tuple"):
        return problem(value, RANGES[field])
    length = Length(0 if field in MAY_BE_EMPTY else 1, 1000)
    entries: Any = tuple[RANGES[field], ...]  # type: ignore[valid-type]  # out of a table
    return problem(value, Annotated[entries, length])


def _structure_problem(value: Any) -> str | None:
    """Returns what is expected of layers' numbers in place of one of them, or None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [getattr(value, field.name) for field in dataclasses.fields(value)]
        return next(filter(None, map(_structure_problem, parts)), None)
    if isinstance(value, tuple):
        return next(filter(None, map(_structure_problem, value)), None)
    if isinstance(value, bool) or value is None or callable(value):
        return None
    expected = problem(value, Annotated[int, Whole(0, MAX_FEATURES)])
    return expected and f"in it {expected}, not {shown(value)}"
