"""A training step on many devices: three strategies over the same pure function.

The step is written for one device and one batch; it reaches the network only through
`state.apply_fn`. A strategy hands it a state whose `apply_fn` knows of the devices:

`"jit"`: one program with a global view. Batch and state lie as their shardings say, and
XLA inserts what must be exchanged. Leaves that are split (FSDP) are gathered where the
network reads them, and their gradients are summed and split again on the way back.

`"shard_map"`: each device runs the step on its part of the batch. The network reads the
parameters through a function that copies them to the devices and whose transpose is the
mean over the devices: of all gradients at once, raveled into one buffer, hence one
all-reduce. Optimizers, averages of weights and the like then do the same everywhere,
without talking. What else differs between the devices when the step has ended (running
statistics, metrics) is averaged by a second, small all-reduce, which waits for the
forward pass only.

`"pmap"`: the same under `jax.pmap`, for its users; one process only.

What a device draws at random under `"shard_map"` and `"pmap"` follows from the step's
key and the device's index, so dropout is not that of one device. A step's loss must be
a mean over the batch of what the network returns: terms in the parameters alone belong
into the optimizer.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnn_jax import sharding, trees
from cnn_jax.layers import statistics_scope
from cnn_jax.training.config.parallel import BatchNormScope, Strategy
from cnn_jax.training.devices.collectives import (
    average_leaves,
    differing_leaves,
    spread_over,
)

StepFn = Callable[[Any, Mapping[str, jax.Array], jax.Array], tuple[Any, Any]]
"""`(state, batch, key) -> (state, metrics)`, pure."""


# jit keys its cache on the callable: compared by identity, for trees have no hash.
@dataclasses.dataclass(frozen=True, eq=False)
class ParallelStep:
    """A step over a mesh, called `(state, batch, key) -> (state, metrics)`.

    Call it inside a larger jitted program, or use `jitted`. The arrays are global, for
    every strategy.

    Attributes:
      function: The step; it expects arrays of any sharding.
      mesh: The devices.
      state: Where the state lies: a tree of shardings, or one for all leaves.
    """

    function: StepFn
    mesh: Mesh
    state: Any

    def __call__(
        self, state: Any, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[Any, Any]:
        """Returns the state after the step and the metrics of the global batch.

        Raises:
          ValueError: If the batch does not split evenly.
        """
        sharding.check_batch_size(batch["image"].shape[0], self.mesh)
        sharding.check_image_height(batch["image"].shape[1], self.mesh)
        explicit = jax.sharding.get_abstract_mesh().explicit_axes
        if not explicit:
            return self.function(state, batch, key)
        specs = jax.tree.map(lambda leaf: leaf.spec, self.state)
        run = jax.sharding.auto_axes(
            self.function, axes=explicit, out_sharding=(specs, PartitionSpec())
        )
        return run(state, dict(batch), key)

    def batch(self, batch: Mapping[str, Any]) -> dict[str, NamedSharding]:
        """Returns where a batch of these names lies."""
        return sharding.batch_shardings(self.mesh, batch)

    def jitted(self, **options: Any) -> Any:
        """Returns the step under `jax.jit`, with its shardings; the state is donated.

        Args:
          **options: Of `jax.jit`, such as `compiler_options`.
        """
        everywhere = sharding.replicated(self.mesh)
        return jax.jit(
            self,
            in_shardings=(self.state, None, everywhere),
            out_shardings=(self.state, everywhere),
            donate_argnums=0,
            **options,
        )


def make_step(
    step_fn: StepFn,
    *,
    strategy: Strategy,
    mesh: Mesh,
    batch_norm_scope: BatchNormScope = "global",
    state_shardings: Any = None,
    reduce_dtype: Any = None,
) -> ParallelStep:
    """Spreads a step over the devices of a mesh.

    Batch normalisation (`cnn_jax.layers.BatchNorm`) takes its statistics over
    `batch_norm_scope`: that of k devices on a batch of n equals, on one device,
    statistics of n k / devices consecutive images each, and running statistics that
    move towards the groups' average. All strategies know all scopes; under `"jit"` the
    smaller ones need whole images on a device.

    Args:
      step_fn: The step for one device, such as a partial `train_step`.
      strategy: `"jit"`, `"shard_map"` or `"pmap"`; see the module.
      mesh: The devices. The last two strategies take the axis `"data"` alone. Where its
        axes are explicit, the step runs with them automatic.
      batch_norm_scope: `"global"`, `"device"`, or a number of devices.
      state_shardings: For `"jit"`, where the state lies, from
        `sharding.state_shardings`; None for a copy on every device.
      reduce_dtype: For `"shard_map"` and `"pmap"`, the dtype in which gradients are
        summed, such as bfloat16; None for their own.

    Returns:
      The step over the mesh.

    Raises:
      ValueError: If these do not go together; the message says why.
    """
    if strategy not in ("jit", "shard_map", "pmap"):
        raise ValueError(
            f"strategy: got {strategy!r}, expected 'jit', 'shard_map' or 'pmap'."
        )
    mesh = sharding.with_automatic_axes(mesh)
    group_size = _group_size(batch_norm_scope, mesh)
    if strategy == "jit":
        function = _global_step(step_fn, mesh, group_size, state_shardings)
        _check_global(mesh, group_size, reduce_dtype)
        whole = sharding.replicated(mesh)
        return ParallelStep(function, mesh, state_shardings or whole)
    _check_local(strategy, mesh, state_shardings)
    make = _mapped_step if strategy == "shard_map" else _pmapped_step
    function = make(step_fn, mesh, group_size, reduce_dtype)
    return ParallelStep(function, mesh, sharding.replicated(mesh))


def _global_step(
    step_fn: StepFn, mesh: Mesh, group_size: int, state_shardings: Any
) -> StepFn:
    num_groups = sharding.num_batch_shards(mesh) // group_size
    gather = functools.partial(_gather, mesh, state_shardings)

    def step(state, batch, key):
        batch = jax.lax.with_sharding_constraint(
            dict(batch), sharding.batch_shardings(mesh, batch)
        )
        with statistics_scope(num_groups=num_groups):
            new_state, metrics = _reading_through(gather, step_fn, state, batch, key)
        if state_shardings is not None:
            new_state = jax.lax.with_sharding_constraint(new_state, state_shardings)
        return new_state, metrics

    return step


def _gather(mesh: Mesh, state_shardings: Any, params: Any) -> Any:
    """Gathers the split parameters, and splits what comes back for them."""
    if state_shardings is None:
        return params
    whole = sharding.replicated(mesh)

    def gather_leaf(leaf, split):
        if split.is_fully_replicated:
            return leaf
        gathered = jax.custom_vjp(
            lambda leaf: jax.lax.with_sharding_constraint(leaf, whole)
        )
        gathered.defvjp(
            lambda leaf: (jax.lax.with_sharding_constraint(leaf, whole), None),
            lambda _, cotangent: (jax.lax.with_sharding_constraint(cotangent, split),),
        )
        return gathered(leaf)

    return jax.tree.map(gather_leaf, params, state_shardings.params)


def _mapped_step(
    step_fn: StepFn, mesh: Mesh, group_size: int, reduce_dtype: Any
) -> StepFn:
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


def _pmapped_step(
    step_fn: StepFn, mesh: Mesh, group_size: int, reduce_dtype: Any
) -> StepFn:
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
        return _reading_through(spread, step_fn, state, batch, key)


def _reading_through(
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


def _group_size(scope: BatchNormScope, mesh: Mesh) -> int:
    """Returns how many devices share the statistics of batch normalisation."""
    num_shards = sharding.num_batch_shards(mesh)
    if scope == "global":
        size = num_shards
    elif scope == "device":
        size = 1
    else:
        size = scope
    counts = isinstance(size, int) and not isinstance(size, bool) and size > 0
    if not counts or num_shards % size:
        raise ValueError(
            f"batch_norm_scope: got {scope!r}, expected 'global', 'device' or a number "
            f"of devices that divides the {num_shards} parts of the batch."
        )
    return size


def _check_global(mesh: Mesh, group_size: int, reduce_dtype: Any) -> None:
    if reduce_dtype is not None:
        raise ValueError(
            f"reduce_dtype: got {reduce_dtype} with strategy 'jit', where XLA inserts "
            "the sums; expected None, or strategy 'shard_map' or 'pmap'."
        )
    spatial = mesh.shape.get(sharding.SPATIAL_AXIS, 1)
    if group_size < sharding.num_batch_shards(mesh) and spatial > 1:
        raise ValueError(
            f"batch_norm_scope: got groups of {group_size} on a mesh with "
            f"{sharding.SPATIAL_AXIS}={spatial}, whose devices hold parts of images; "
            "expected 'global'."
        )


def _check_local(strategy: Strategy, mesh: Mesh, state_shardings: Any) -> None:
    others = {
        axis: size
        for axis, size in mesh.shape.items()
        if axis != sharding.DATA_AXIS and size > 1
    }
    if others or sharding.DATA_AXIS not in mesh.shape:
        raise ValueError(
            f"mesh: got {dict(mesh.shape)} with strategy {strategy!r}, which only "
            f"splits the batch; expected all devices on {sharding.DATA_AXIS!r}, or "
            "strategy 'jit'."
        )
    leaves = jax.tree.leaves(state_shardings)
    if not all(leaf.is_fully_replicated for leaf in leaves):
        raise ValueError(
            f"state_shardings: got leaves that are split with strategy {strategy!r}, "
            "which keeps the state whole on every device; expected strategy 'jit'."
        )
    if strategy == "pmap" and jax.process_count() > 1:
        raise ValueError(
            f"strategy: got 'pmap' in {jax.process_count()} processes, expected one; "
            "'shard_map' does the same in several."
        )
