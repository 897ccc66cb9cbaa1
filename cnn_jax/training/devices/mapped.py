"""A step as each device takes it on its part of the batch, by shard_map or pmap.

Each device runs the step on its part. The network reads the parameters through a
function that copies them to the devices and whose transpose is the mean over the
devices: of all gradients at once, raveled into one buffer, hence one all-reduce.
Optimizers, averages of weights and the like then do the same everywhere, without
communication. What else differs between the devices when the step has ended (running
statistics, metrics) is averaged by a second, small all-reduce, which waits for the
forward pass only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

from cnn_jax import sharding, trees
from cnn_jax.layers import statistics_scope
from cnn_jax.training.devices.collectives import (
    average_leaves,
    differing_leaves,
    spread_over,
)

StepFn = Callable[[Any, Mapping[str, jax.Array], jax.Array], tuple[Any, Any]]
"""`(state, batch, key) -> (state, metrics)`, pure."""


def mapped_step(
    step_fn: StepFn, mesh: Mesh, group_size: int, reduce_dtype: Any
) -> StepFn:
    """Maps a step over the devices by `jax.shard_map`.

    Args:
      step_fn: The step for one device.
      mesh: The devices, all on the axis `"data"`.
      group_size: How many neighbouring devices share batch statistics.
      reduce_dtype: The dtype in which gradients are summed; None for their own.
    """
    axes: tuple[str, ...] = (sharding.DATA_AXIS,)
    shape: tuple[int, ...] = (mesh.size,)
    if 1 < group_size < mesh.size:
        # `axis_index_groups` is not for a shard_map that checks types; an axis is.
        axes, shape = ("group", "member"), (mesh.size // group_size, group_size)
    scope = {"axis_name": None if group_size == 1 else axes[-1]}
    types = (AxisType.Auto,) * len(axes)

    def local_step(state, batch, key):
        new = _local_step(step_fn, axes, scope, reduce_dtype, state, batch, key)
        return average_leaves(new, _differing(new), axes)

    return jax.shard_map(
        local_step,
        mesh=Mesh(mesh.devices.reshape(shape), axes, axis_types=types),
        in_specs=(PartitionSpec(), PartitionSpec(axes), PartitionSpec()),
        out_specs=PartitionSpec(),
    )


def pmapped_step(
    step_fn: StepFn, mesh: Mesh, group_size: int, reduce_dtype: Any
) -> StepFn:
    """Maps a step over the devices by `jax.pmap`; the arguments of `mapped_step`."""
    axes = (sharding.DATA_AXIS,)
    scope: dict[str, Any] = {"axis_name": None if group_size == 1 else axes[0]}
    if 1 < group_size < mesh.size:
        indices = np.arange(mesh.size).reshape(-1, group_size)
        scope["axis_index_groups"] = indices.tolist()

    def step(state, batch, key):
        differing = _differing_abstractly(step_fn, mesh, state, batch, key)

        def local_step(state, batch, key):
            new = _local_step(step_fn, axes, scope, reduce_dtype, state, batch, key)
            return average_leaves(new, differing, axes)

        mapped = jax.pmap(
            local_step,
            axis_name=axes[0],
            in_axes=(None, 0, None),
            out_axes=None,
            devices=list(mesh.devices.flat),
        )
        parts = jax.tree.map(
            lambda leaf: leaf.reshape(mesh.size, -1, *leaf.shape[1:]), dict(batch)
        )
        return mapped(state, parts, key)

    return step


def _local_step(
    step_fn: StepFn,
    axes: tuple[str, ...],
    scope: Mapping[str, Any],
    reduce_dtype: Any,
    state: Any,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
) -> tuple[Any, Any]:
    """Takes the step as one device does, up to the mean of what still differs."""
    spread = spread_over(axes, reduce_dtype=reduce_dtype)
    key = jax.random.fold_in(key, jax.lax.axis_index(axes))
    with statistics_scope(**scope):
        return reading_through(spread, step_fn, state, batch, key)


def reading_through(
    read: Callable[[Any], Any],
    step_fn: StepFn,
    state: Any,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
) -> tuple[Any, Any]:
    """Takes a step whose network sees `read(params)` in place of its parameters."""
    apply_fn = state.apply_fn

    def apply(variables, *operands, **options):
        variables = {**variables, "params": read(variables["params"])}
        return apply_fn(variables, *operands, **options)

    new_state, metrics = step_fn(state.replace(apply_fn=apply), batch, key)
    return new_state.replace(apply_fn=apply_fn), metrics


def _differing(new: tuple[Any, Any]) -> list[bool]:
    """Tells which leaves of the new state and the metrics differ between devices."""
    differing = differing_leaves(new)
    names = trees.named_leaves(new)
    split = [
        name
        for name, differs in zip(names, differing, strict=True)
        if differs and name.split("/")[:2] in (["0", "params"], ["0", "opt_state"])
    ]
    if split:
        raise ValueError(
            f"step: got an update of {split[0]} and {len(split) - 1} other leaves that "
            "depends on one device's part of the batch beside its gradients; expected "
            "it to follow from gradients and state."
        )
    return differing


def _differing_abstractly(
    step_fn: StepFn, mesh: Mesh, state: Any, batch: Any, key: jax.Array
) -> list[bool]:
    """Asks the types of `shard_map` what `pmap` does not track."""
    axes = (sharding.DATA_AXIS,)
    found: list[bool] = []

    def local_step(state, batch, key):
        new = _local_step(step_fn, axes, {}, None, state, batch, key)
        found.extend(_differing(new))
        return average_leaves(new, found, axes)

    mapped = jax.shard_map(
        local_step,
        mesh=sharding.make_mesh(list(mesh.devices.flat)),
        in_specs=(PartitionSpec(), PartitionSpec(axes), PartitionSpec()),
        out_specs=PartitionSpec(),
    )
    jax.eval_shape(mapped, state, dict(batch), key)
    return found
