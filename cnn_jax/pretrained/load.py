"""Filling a model's variables from arrays that another library named.

Everything is checked before anything is returned: each array must have a place, each
place an array of its shape. One error lists all that does not fit.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import trees
from cnn_jax.models import create_model
from cnn_jax.models.registry import sized_for
from cnn_jax.pretrained.files import read_arrays
from cnn_jax.pretrained.key_maps import KEY_MAPS
from cnn_jax.pretrained.rules import Rule, Transform

HEAD = r"params/(.*/)?head/(kernel|bias)"
"""The paths that depend on the number of classes."""


@dataclasses.dataclass(frozen=True)
class ConversionReport:
    """What was done with every array.

    Attributes:
      source: Whose names the arrays had.
      loaded: The source's name -> path here.
      ignored: Names of arrays that the source has and nobody needs here.
      cast: Path -> (dtype in the source, dtype here), where they differ.
      initialized: The paths that were initialised afresh, for another number of
        classes.
    """

    source: str
    loaded: Mapping[str, str]
    ignored: tuple[str, ...]
    cast: Mapping[str, tuple[str, str]]
    initialized: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} arrays loaded, named as by {self.source}"]
        if self.ignored:
            lines.append(f"{len(self.ignored)} ignored: {_some(self.ignored)}")
        if self.cast:
            changes = sorted({f"{old} to {new}" for old, new in self.cast.values()})
            lines.append(f"{len(self.cast)} cast from {', '.join(changes)}")
        if self.initialized:
            lines.append(f"initialised afresh: {', '.join(self.initialized)}")
        return "\n".join(lines)


def load_pretrained(
    model_or_name: nn.Module | str,
    path: str | os.PathLike | Mapping[str, Any],
    *,
    source: str | None = None,
    num_classes: int | None = None,
    key: jax.Array | None = None,
) -> tuple[dict[str, Any], ConversionReport]:
    """Returns a model's variables, filled with weights trained elsewhere.

    Args:
      model_or_name: A model, or its name in `list_models()`.
      path: A `.safetensors` file, or a mapping from names to arrays or PyTorch
        tensors, such as a state dict.
      source: Whose names the arrays have: `"torchvision"`, `"timm"`, `"keras"`, or
        `"cnn_jax"` for the '/'-joined paths used here. None finds out.
      num_classes: The number of logits, to go with a name. None, or the number that
        the file has, keeps its last layer; another number initialises a new one.
        A `Module` has its own number.
      key: A key for the new last layer, needed if there is one.

    Returns:
      The variables, `{"params": ..., "batch_stats": ...}`, and the report.

    Raises:
      FileNotFoundError: If there is no such file.
      ValueError: If the file is damaged, no names fit, or any array is missing,
        unexpected, of another shape or not of floating-point numbers; the message
        lists them all. Or if the arguments contradict each other.
    """
    if not isinstance(model_or_name, nn.Module):
        model = create_model(model_or_name, num_classes=num_classes)
    elif num_classes is None:
        model = model_or_name
    else:
        raise ValueError(
            f"num_classes: got {num_classes} beside a model, which has its own; pass "
            "one of them."
        )
    arrays = _without_prefix(read_arrays(path), "module.")

    def initialize(key):
        x = jnp.zeros((1, *sized_for(model)), model.param_dtype)
        return model.init(key, x, train=False)

    shapes = jax.eval_shape(initialize, jax.eval_shape(jax.random.key, 0))
    expected = trees.named_leaves(shapes)
    source, places = _find_places(model, arrays, source, expected)
    placed = _place_arrays(arrays, places, expected, model.num_classes)
    if placed.heads and key is None:
        raise ValueError(
            f"key: got None, but the arrays are for another number of classes than the "
            f"model's {model.num_classes} ({_some(placed.heads)}): pass a key to "
            "initialise a new last layer, or num_classes to keep the file's."
        )
    values = {
        path: jnp.asarray(array, expected[path].dtype)
        for path, array in placed.arrays.items()
    }
    if placed.heads:
        # XLA drops all of the initialisation that is not returned.
        fresh = jax.jit(
            lambda key: {
                path: leaf
                for path, leaf in trees.named_leaves(initialize(key)).items()
                if path in placed.heads
            }
        )
        values |= fresh(key)
    variables = jax.tree.unflatten(
        jax.tree.structure(shapes), [values[path] for path in expected]
    )
    return variables, ConversionReport(
        source=source,
        loaded=placed.loaded,
        ignored=placed.ignored,
        cast={
            path: (str(array.dtype), str(expected[path].dtype))
            for path, array in placed.arrays.items()
            if array.dtype != expected[path].dtype
        },
        initialized=placed.heads,
    )


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where an array goes: its path here (None where nobody needs it), and how."""

    path: str | None
    transform: Transform


@dataclasses.dataclass(frozen=True)
class _Placed:
    """Path -> array; name -> path; the names and the heads that are left out."""

    arrays: Mapping[str, np.ndarray]
    loaded: Mapping[str, str]
    ignored: tuple[str, ...]
    heads: tuple[str, ...]


def _without_prefix(
    arrays: dict[str, np.ndarray], prefix: str
) -> dict[str, np.ndarray]:
    """Removes what PyTorch's data-parallel wrapper puts in front of every name."""
    if all(name.startswith(prefix) for name in arrays):
        return {name.removeprefix(prefix): array for name, array in arrays.items()}
    return arrays


def _find_places(
    model: nn.Module,
    names: Collection[str],
    source: str | None,
    expected: Collection[str],
) -> tuple[str, dict[str, _Place | None]]:
    """Returns the source and, for each name, its place or None if no rule fits."""
    sources = {**KEY_MAPS.get(type(model), {}), "cnn_jax": None}
    if source is not None and source not in sources:
        raise ValueError(
            f"source: got {source!r}, expected one of {sorted(sources)} for a "
            f"{type(model).__name__}, or None to find out."
        )
    candidates = {}
    for candidate in sources if source is None else (source,):
        key_map = sources[candidate]
        rules = None if key_map is None else key_map(model)
        candidates[candidate] = {name: _find_place(name, rules) for name in names}

    def num_found(candidate: str) -> int:
        places = filter(None, candidates[candidate].values())
        return sum(place.path in expected for place in places)

    found = max(candidates, key=num_found)
    if not num_found(found):
        raise ValueError(
            f"got {len(names)} arrays, such as {_some(names)}, of which none is named "
            f"as in a {type(model).__name__} of {' or '.join(candidates)}; are they "
            "another model's?"
        )
    return found, candidates[found]


def _find_place(name: str, rules: Sequence[Rule] | None) -> _Place | None:
    if rules is None:
        return _Place(name, np.asarray)
    # Keras joins names with '/', PyTorch with '.'.
    layer, _, array = name.rpartition("/" if "/" in name else ".")
    for rule in rules:
        leaf = rule.layout.get(array)
        target = None if leaf is None else rule.target_of(layer)
        if target is None:
            continue
        if leaf.collection is None:
            return _Place(None, leaf.transform)
        return _Place(f"{leaf.collection}/{target}/{leaf.name}", leaf.transform)
    return None


def _place_arrays(
    arrays: Mapping[str, np.ndarray],
    places: Mapping[str, _Place | None],
    expected: Mapping[str, jax.ShapeDtypeStruct],
    num_classes: int,
) -> _Placed:
    """Brings every array into its layout, or raises one error about all that fail."""
    filled: dict[str, np.ndarray] = {}
    loaded: dict[str, str] = {}
    ignored, heads, problems = [], [], []
    for name, array in arrays.items():
        place = places[name]
        if place is None:
            problems.append(f"unexpected: {name} {array.shape}")
            continue
        path = place.path
        is_head = path is not None and re.fullmatch(HEAD, path)
        if path is None or (is_head and not num_classes):
            ignored.append(name)
            continue
        if path not in expected:
            problems.append(f"unexpected: {name} {array.shape} ({path})")
            continue
        if path in filled or path in heads:
            problems.append(f"twice: {name}, {path}")
            continue
        if not jnp.issubdtype(array.dtype, jnp.floating):
            problems.append(f"not of floating-point numbers: {name}, {array.dtype}")
            continue
        wanted = expected[path].shape
        try:
            moved = place.transform(array)
        except ValueError:
            moved = array  # too few dimensions, or not to be cut as the rule wants
        if moved.shape == wanted:
            filled[path] = moved
            loaded[name] = path
        elif is_head and moved.ndim and moved.shape[:-1] == wanted[:-1]:
            ignored.append(name)
            heads.append(path)
        else:
            problems.append(
                f"mis-shaped: {name} {array.shape}, expected {path} {wanted}"
            )
    missing = [
        f"missing: {path} {leaf.shape}"
        for path, leaf in expected.items()
        if path not in loaded.values() and path not in heads
    ]
    if missing or problems:
        listed = "\n  ".join([*missing, *problems])
        raise ValueError(
            f"the arrays do not fit the model, in {len(missing) + len(problems)} "
            f"places:\n  {listed}"
        )
    return _Placed(filled, loaded, tuple(ignored), tuple(heads))


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
