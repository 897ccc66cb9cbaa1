"""On which devices a run computes, and how it is spread over them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from operator import index
from typing import Literal

from cnn_jax import sharding
from cnn_jax.geometry import is_integer
from cnn_jax.training.config.requirements import (
    Requirement,
    at_least_one_if_given,
    is_pattern,
)

Strategy = Literal["jit", "shard_map", "pmap"]
"""Ways to spread a step over devices; see `ParallelConfig.parallel`."""

BatchNormScope = Literal["global", "device"] | int
"""Whose images share the statistics of a batch normalisation: those of the whole batch,
of one device, or of as many neighbouring devices as the number says."""


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
    """The part of `TrainConfig` about devices and hosts."""

    parallel: Strategy = "jit"
    """`jit`: one program over the mesh; `shard_map`: each device's own step and one sum
    of gradients; `pmap`: the same, the old way."""
    mesh: str | None = None
    """Sizes of the axes, such as `data=4,fsdp=2` or `data=2,spatial=4`: `data` splits
    the batch, `fsdp` also the state, `spatial` the images. Default: all on `data`."""
    sharding_rules: tuple[tuple[str, str], ...] = ()
    """With `fsdp`: pairs of a pattern on the state's paths and, for each dimension of
    its leaves, a mesh axis or `none`, such as `head/kernel$ none,fsdp`. The first that
    matches decides; large leaves that none matches are split."""
    batch_norm_scope: BatchNormScope = "global"
    """Whose images share batch-norm statistics: those of the whole batch, of one
    device, or of this number of devices."""
    reduce_dtype: Literal["bfloat16"] | None = None
    """For `shard_map` and `pmap`: what gradients are summed in over devices. Default:
    their own dtype."""
    coordinator_address: str | None = None
    """`host:port` of process 0, or `auto` on Cloud TPU, GKE and Slurm. Default: this is
    the only process."""
    num_processes: int | None = None
    """Number of processes of the run, with `coordinator_address`."""
    process_id: int | None = None
    """Number of this process, from 0."""

    def _parallel_requirements(self) -> Iterable[Requirement]:
        yield from at_least_one_if_given(self, "num_processes")
        sizes, mistake = {}, ""
        try:
            sizes = sharding.parse_mesh(self.mesh) if self.mesh is not None else {}
        except ValueError as error:
            mistake = str(error)
        yield "mesh", not mistake, f"axes and sizes ({mistake})"
        only_data = all(
            size == 1 or axis == sharding.DATA_AXIS for axis, size in sizes.items()
        )
        yield (
            "mesh",
            self.parallel == "jit" or only_data,
            f"all devices on {sharding.DATA_AXIS!r} with parallel={self.parallel!r}",
        )
        yield (
            "sharding_rules",
            not self.sharding_rules or sharding.FSDP_AXIS in sizes,
            f"a mesh with the axis {sharding.FSDP_AXIS!r}",
        )
        yield (
            "sharding_rules",
            all(is_pattern(pattern) for pattern, _ in self.sharding_rules),
            "regular expressions, each with a partition",
        )
        scope = self.batch_norm_scope
        is_count = isinstance(scope, int) and not isinstance(scope, bool) and scope > 0
        yield (
            "batch_norm_scope",
            is_count or scope in ("global", "device"),
            "'global', 'device', or a number of devices",
        )
        yield (
            "reduce_dtype",
            self.reduce_dtype in (None, "bfloat16"),
            "'bfloat16', or None",
        )
        yield (
            "reduce_dtype",
            self.reduce_dtype is None or self.parallel != "jit",
            "None with parallel='jit', where XLA inserts the sums",
        )
        yield from self._host_requirements()

    def _host_requirements(self) -> Iterable[Requirement]:
        address, numbers = (
            self.coordinator_address,
            (self.num_processes, self.process_id),
        )
        explicit = address not in (None, "auto")
        yield (
            "num_processes",
            (None not in numbers) if explicit else numbers == (None, None),
            "to be given, with process_id, exactly if coordinator_address is host:port",
        )
        yield (
            "process_id",
            self.process_id is None
            or (
                is_integer(self.process_id)
                and (
                    self.num_processes is None
                    or 0 <= index(self.process_id) < self.num_processes
                )
            ),
            "a whole number from 0, below num_processes",
        )
