"""Partition rules: the leaves of a state to split, and along which dimension.

A rule is a pair of a regular expression and a partition: the mesh axis, or None, for
each dimension. It is searched in the leaves' '/'-joined paths, and the first rule that
matches decides. An optimizer's moments and averaged weights carry the paths of the
parameters inside their own (`opt_state/0/trace/head/kernel`), so that one rule places
all of them alike: `(r"head/kernel$", (None, "fsdp"))`.

Leaves that no rule matches follow the rule of large leaves: split the largest dimension
that the axis `fsdp` divides, and keep small leaves whole.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnn_jax import trees
from cnn_jax.sharding.meshes import FSDP_AXIS

Rule = tuple[str, Sequence[str | None]]
"""A regular expression on paths, and the mesh axis of each dimension."""

LARGE_LEAF = 2**14
"""The least entries of a leaf for `fsdp` to split it by default: for smaller ones
the memory saved is not worth the time of another collective."""


def state_shardings(
    state: Any,
    mesh: Mesh,
    *,
    rules: Sequence[Rule] = (),
    large_leaf: int = LARGE_LEAF,
) -> Any:
    """Returns the sharding of every leaf of a state.

    Args:
      state: Any tree of arrays or of `jax.ShapeDtypeStruct`, such as a `TrainState`
        from `jax.eval_shape`.
      mesh: The mesh. Without the axis `fsdp`, what no rule matches is copied.
      rules: Rules, of which the first that matches a leaf's path decides.
      large_leaf: The number of entries from which on leaves without a rule are split.

    Returns:
      A tree of the same structure with a `NamedSharding` for each leaf.

    Raises:
      ValueError: Listing the rules that match nothing, name an axis that the mesh does
        not have, or split a dimension that is not there or does not divide.
    """
    names = list(trees.named_leaves(state))
    leaves, structure = jax.tree.flatten(state)
    problems = _problems_of_rules(rules, names, mesh)
    partitions = []
    for name, leaf in zip(names, leaves, strict=True):
        shape = np.shape(leaf)
        rule = next((rule for rule in rules if _matches(rule, name)), None)
        if rule is None:
            partitions.append(_large_leaf_partition(shape, mesh, large_leaf))
            continue
        partitions.append(tuple(rule[1]))
        if not problems:
            problem = _misfit(partitions[-1], shape, mesh)
            if problem:
                problems.append(f"  {rule!r} for {name} {shape}: {problem}")
    if problems:
        raise ValueError(
            "rules: got some that cannot be followed; expected pairs of a regular "
            "expression on paths and a mesh axis or None for each dimension:\n"
            + "\n".join(problems)
        )
    return jax.tree.unflatten(
        structure,
        (NamedSharding(mesh, PartitionSpec(*partition)) for partition in partitions),
    )


def parse_partition(text: str) -> tuple[str | None, ...]:
    """Reads a rule's partition as a command line has it.

    Args:
      text: Such as `"none,fsdp"`: for each dimension a mesh axis, or `none`.

    Returns:
      `(None, "fsdp")`.
    """
    words = (word.strip() for word in text.split(","))
    return tuple(None if word == "none" else word for word in words)


def bytes_per_device(state: Any, shardings: Any) -> int:
    """Returns the bytes of a state on one device.

    Args:
      state: A tree of arrays or of `jax.ShapeDtypeStruct`.
      shardings: Its shardings, a tree of the same structure.
    """
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True)
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, sharding in pairs
    )


def _large_leaf_partition(
    shape: tuple[int, ...], mesh: Mesh, large_leaf: int
) -> tuple[str | None, ...]:
    num_shards = mesh.shape.get(FSDP_AXIS, 1)
    fitting = [size for size in shape if size % num_shards == 0]
    if num_shards == 1 or math.prod(shape) < large_leaf or not fitting:
        return ()
    # The last of equals: a kernel's output features.
    index = max(index for index, size in enumerate(shape) if size == max(fitting))
    return (*(None,) * index, FSDP_AXIS)


def _matches(rule: Rule, name: str) -> bool:
    return re.search(rule[0], name) is not None


def _problems_of_rules(
    rules: Sequence[Rule], names: Sequence[str], mesh: Mesh
) -> list[str]:
    problems = []
    for rule in rules:
        pattern, partition = rule
        try:
            if not any(_matches(rule, name) for name in names):
                problems.append(f"  {rule!r} matches none of the {len(names)} paths")
        except re.error as error:
            raise ValueError(
                f"rules: got {pattern!r}, which is no regular expression: {error}."
            ) from None
        axes = [axis for axis in partition if axis is not None]
        if unknown := sorted(set(axes) - set(mesh.shape)):
            problems.append(
                f"  {rule!r} names {unknown}, the mesh has {list(mesh.shape)}"
            )
        if len(axes) != len(set(axes)):
            problems.append(f"  {rule!r} names an axis twice")
    return problems


def _misfit(
    partition: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh
) -> str | None:
    if len(partition) > len(shape):
        return f"{len(partition)} dimensions for a leaf of {len(shape)}"
    for size, axis in zip(shape, partition, strict=False):
        if axis is not None and size % mesh.shape[axis]:
            return f"{axis} of {mesh.shape[axis]} devices does not divide {size}"
    return None
