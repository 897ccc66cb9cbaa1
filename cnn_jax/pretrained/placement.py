"""Placement of each array, decided by names and shapes before any is read."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Collection, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.files import FileError
from cnn_jax.pretrained.channels import convert_filters
from cnn_jax.pretrained.files import FLOATS, StoredArray
from cnn_jax.pretrained.files.own_weights import HEAD
from cnn_jax.pretrained.key_maps import KEY_MAPS
from cnn_jax.pretrained.report import some
from cnn_jax.pretrained.rules import KeyMap, Origin, Rule, Transform

_MAX_LISTED = 1_000
"""The most problems that an error lists: more arrays than a model has."""


@dataclasses.dataclass(frozen=True)
class Place:
    """An array's path in the model (None if unused) and its transformation."""

    path: str | None
    transform: Transform


@dataclasses.dataclass(frozen=True)
class Plan:
    """The placement of every array.

    Attributes:
      places: Name -> place, of what is to be read.
      ignored: Names of what is not.
      heads: Path -> the number of classes in the source, of the last layers that are
        for another number of classes than the model.
    """

    places: Mapping[str, Place]
    ignored: tuple[str, ...]
    heads: Mapping[str, int]


def find_places(
    model: nn.Module,
    names: Collection[str],
    source: Origin | None,
    expected: Collection[str],
    location: str = "a mapping",
) -> tuple[Origin, dict[str, Place | None]]:
    """Returns the source and, for each name, its place or None if no rule fits.

    Raises:
      ValueError: If the source is unknown, or no name fits any.
    """
    sources: dict[Origin, KeyMap | None] = {
        **KEY_MAPS.get(type(model), {}),
        "cnn_jax": None,
    }
    if source is not None and source not in sources:
        raise ValueError(
            f"source: got {source!r}, expected one of {sorted(sources)} for a "
            f"{type(model).__name__}, or None to find out."
        )
    candidates: dict[Origin, dict[str, Place | None]] = {}
    for candidate in sources if source is None else (source,):
        key_map = sources[candidate]
        rules = None if key_map is None else key_map(model)
        candidates[candidate] = {name: _find_place(name, rules) for name in names}

    def num_found(candidate: Origin) -> int:
        places = filter(None, candidates[candidate].values())
        return sum(place.path in expected for place in places)

    found = max(candidates, key=num_found)
    if not num_found(found):
        raise ValueError(
            f"{location}: got {len(names)} arrays, such as {some(names)}, of which "
            f"none is named as in a {type(model).__name__} of "
            f"{' or '.join(candidates)}; are they another model's?"
        )
    return found, candidates[found]


def other_filters(
    arrays: Mapping[str, StoredArray],
    places: Mapping[str, Place | None],
    expected: Mapping[str, jax.ShapeDtypeStruct],
    channels: int,
) -> dict[str, int]:
    """Returns the first filters among arrays for images of other channels.

    Args:
      arrays: All of them.
      places: Where they go.
      expected: Path -> shape and dtype, of a model for images of `channels` channels.
      channels: The number that may be another in the arrays.

    Returns:
      Name -> the number of channels of each, one number for all, if all that is
      mis-shaped (but for last layers of another number of classes) are filters that
      would fit but for it; else nothing.
    """
    found: dict[str, int] = {}
    for name, place in places.items():
        if place is None or place.path is None or place.path not in expected:
            continue
        wanted = expected[place.path].shape
        moved = _moved_shape(place.transform, arrays[name].shape)
        if moved == wanted or re.fullmatch(HEAD, place.path):
            continue
        is_filter = len(wanted) > 2 and wanted[-2] == channels
        if not is_filter or moved is None or len(moved) != len(wanted):
            return {}
        if (*moved[:-2], moved[-1]) != (*wanted[:-2], wanted[-1]):
            return {}
        found[name] = moved[-2]
    return found if len(set(found.values())) == 1 else {}


def converting(
    places: Mapping[str, Place | None], filters: Mapping[str, int], channels: int
) -> tuple[dict[str, Place | None], dict[str, tuple[int, int]]]:
    """Returns places whose filters are converted to another number of channels.

    Args:
      places: Name -> place.
      filters: Name -> the number of channels, of those to convert.
      channels: The number that the model's filters have.

    Returns:
      The places, and path -> (channels in the arrays, channels in the model).
    """
    changed, converted = dict(places), {}
    for name, before in filters.items():
        place = places[name]
        assert place is not None  # `other_filters` found it
        assert place.path is not None
        changed[name] = Place(place.path, _converter(place.transform, channels))
        converted[place.path] = (before, channels)
    return changed, converted


def _converter(transform: Transform, channels: int) -> Transform:
    return lambda array: convert_filters(transform(array), channels)


def plan(
    arrays: Mapping[str, StoredArray],
    places: Mapping[str, Place | None],
    expected: Mapping[str, jax.ShapeDtypeStruct],
    *,
    has_head: bool,
    location: str,
) -> Plan:
    """Decides what is to be read, or raises one error about all that does not fit.

    Args:
      arrays: All of them.
      places: Where they go.
      expected: Path -> shape and dtype, of the model.
      has_head: Whether the model has a last layer, so that it needs the arrays of one.
      location: Where the arrays come from, for the error.
    """
    chosen: dict[str, Place] = {}
    heads: dict[str, int] = {}
    taken: set[str] = set()
    ignored, problems = [], []
    for name, array in arrays.items():
        place = places[name]
        if place is None:
            problems.append(f"unexpected: {name} {array.shape}")
            continue
        path = place.path
        is_head = path is not None and re.fullmatch(HEAD, path)
        if path is None or (is_head and not has_head):
            ignored.append(name)
            continue
        if path not in expected:
            problems.append(f"unexpected: {name} {array.shape} ({path})")
            continue
        if path in taken:
            problems.append(f"twice: {name}, {path}")
            continue
        if array.dtype not in FLOATS:
            problems.append(f"not of floating-point numbers: {name}, {array.dtype}")
            continue
        wanted = expected[path].shape
        moved = _moved_shape(place.transform, array.shape)
        if moved == wanted:
            chosen[name] = place
            taken.add(path)
        elif is_head and moved and moved[:-1] == wanted[:-1]:
            ignored.append(name)
            heads[path] = moved[-1]
            taken.add(path)
        else:
            problems.append(
                f"mis-shaped: {name} {array.shape}, expected {path} {wanted}"
                + (
                    _hint(place.transform, array.shape, wanted)
                    if len(problems) < _MAX_LISTED
                    else ""
                )
            )
    missing = [
        f"missing: {path} {leaf.shape}"
        for path, leaf in expected.items()
        if path not in taken
    ]
    if missing or problems:
        raise misfit([*missing, *problems], location)
    return Plan(chosen, tuple(ignored), heads)


def read(
    arrays: Mapping[str, StoredArray],
    places: Mapping[str, Place],
    expected: Mapping[str, jax.ShapeDtypeStruct],
    location: str,
) -> dict[str, jax.Array]:
    """Returns path -> array, or raises one error about all values that are no weights.

    The arrays are read one at a time.
    """
    values, problems = {}, []
    for name, place in places.items():
        assert place.path is not None  # `plan` left out what is not needed
        dtype = expected[place.path].dtype
        try:
            array = arrays[name].read()
        except FileError:
            raise
        except Exception as error:  # whatever a tensor in memory raises
            problems.append(f"unreadable: {name} ({error})")
            continue
        with np.errstate(all="ignore"):  # what overflows is found right below
            moved = place.transform(array).astype(dtype, copy=False)
        num_bad = moved.size - np.count_nonzero(np.isfinite(moved))
        if num_bad:
            finite = np.isfinite(array).all()
            what = f"too large for {dtype}" if finite else "not finite"
            problems.append(f"{what}: {name}, {num_bad} of {moved.size} values")
        elif not problems:
            # A copy: what is the caller's array may change later.
            values[place.path] = jnp.array(moved)
    if problems:
        raise misfit(problems, location)
    return values


def misfit(problems: Sequence[str], location: str) -> ValueError:
    """Returns the error that lists all that is wrong with the arrays of a location."""
    listed = "\n  ".join(problems[:_MAX_LISTED])
    if len(problems) > _MAX_LISTED:
        listed += f"\n  and {len(problems) - _MAX_LISTED:,} more"
    return ValueError(
        f"{location}: the arrays do not fit the model, in {len(problems)} places:"
        f"\n  {listed}"
    )


def _find_place(name: str, rules: Sequence[Rule] | None) -> Place | None:
    if rules is None:
        return Place(name, np.asarray)
    # Keras joins names with '/', PyTorch with '.'.
    layer, _, array = name.rpartition("/" if "/" in name else ".")
    for rule in rules:
        leaf = rule.layout.get(array)
        target = None if leaf is None else rule.target_of(layer)
        if target is None:
            continue
        assert leaf is not None  # as there is a target
        if leaf.collection is None:
            return Place(None, leaf.transform)
        return Place(f"{leaf.collection}/{target}/{leaf.name}", leaf.transform)
    return None


def _moved_shape(
    transform: Transform, shape: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Returns the shape after a transformation, or None if it cannot be applied."""
    try:
        # One number, seen as an array of any size.
        return transform(np.broadcast_to(np.float32(0), shape)).shape
    # Of other dimensions than it takes, or of more numbers than can be counted.
    except (IndexError, OverflowError, ValueError):
        return None


def _hint(transform: Transform, shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """Says which transposition of an array would fit, if one would."""
    rank = len(shape)
    # First what another library's layout of filters would need, then all others.
    usual = (rank - 1, rank - 2, *range(rank - 2)) if rank > 1 else ()
    for axes in (usual, *itertools.permutations(range(min(rank, 5)))):
        if len(axes) == rank and rank:
            turned = tuple(shape[axis] for axis in axes)
            if _moved_shape(transform, turned) == wanted:
                return f"; transposed to {axes} it would fit"
    return ""
