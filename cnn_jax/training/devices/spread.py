"""A training step on many devices: three strategies over the same pure function.

The step is written for one device and one batch; it reaches the network only through
`state.apply_fn`. A strategy gives it a state whose `apply_fn` is aware of the devices:

`"jit"`: one program with a global view. Batch and state are placed by their shardings,
and XLA inserts what must be exchanged. Leaves that are split (FSDP) are gathered where
the network reads them, and their gradients are summed and split again in the backward
pass.

`"shard_map"`: each device runs the step on its part of the batch, and one all-reduce
averages the gradients; see `mapped`.

`"pmap"`: the same under `jax.pmap`, for its users; one process only.

What a device draws at random under `"shard_map"` and `"pmap"` follows from the step's
key and the device's index, so dropout is not that of one device. A step's loss must be
a mean over the batch of what the network returns: terms in the parameters alone belong
into the optimizer.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnn_jax import sharding
from cnn_jax.layers import statistics_scope
from cnn_jax.training.config.parallel import BatchNormScope, Strategy
from cnn_jax.training.devices.mapped import (
    StepFn,
    mapped_step,
    pmapped_step,
    reading_through,
)


# jit keys its cache on the callable: compared by identity, for trees have no hash.
@dataclasses.dataclass(frozen=True, eq=False)
class ParallelStep:
    """A step over a mesh, called `(state, batch, key) -> (state, metrics)`.

    Call it inside a larger jitted program, or use `jitted`. The arrays are global, for
    every strategy.

    Attributes:
      function: The step; it expects arrays of any sharding.
      mesh: The devices.
      state: The state's shardings: a tree, or one for all leaves.
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
        """Returns the shardings of a batch with these names."""
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
      state_shardings: For `"jit"`, those of the state, from
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
    make = mapped_step if strategy == "shard_map" else pmapped_step
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
            new_state, metrics = reading_through(gather, step_fn, state, batch, key)
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
