"""On which devices a run computes, and how it is spread over them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Annotated, Literal

from cnn_jax import sharding
from cnn_jax.ranges import Pattern, Text, Whole
from cnn_jax.training.config.requirements import Requirement

MAX_DEVICES = 2**20
"""The most devices and processes of a run."""

Strategy = Literal["jit", "shard_map", "pmap"]
"""Ways to spread a step over devices; see `ParallelConfig.parallel`."""

BatchNormScope = Literal["global", "device"] | Annotated[int, Whole(1, MAX_DEVICES)]
"""Whose images share the statistics of a batch normalisation: those of the whole batch,
of one device, or of as many neighbouring devices as the number says."""


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
    """The part of `TrainConfig` about devices and hosts."""

    parallel: Strategy = "jit"
    """`jit`: one program over the mesh; `shard_map`: each device's own step and one sum
    of gradients; `pmap`: the same, the old way."""
    mesh: Annotated[str, Text("axes and sizes", 100)] | None = None
    """Sizes of the axes, such as `data=4,fsdp=2` or `data=2,spatial=4`: `data` splits
    the batch, `fsdp` also the state, `spatial` the images. Default: all on `data`."""
    sharding_rules: tuple[
        tuple[
            Annotated[str, Pattern()],
            Annotated[str, Text("a partition", 100, may_be_empty=True)],
        ],
        ...,
    ] = ()
    """With `fsdp`: pairs of a pattern on the state's paths and, for each dimension of
    its leaves, a mesh axis or `none`, such as `head/kernel$ none,fsdp`. The first that
    matches decides; large leaves that none matches are split."""
    batch_norm_scope: BatchNormScope = "global"
    """Whose images share batch-norm statistics: those of the whole batch, of one
    device, or of this number of devices."""
    reduce_dtype: Literal["bfloat16"] | None = None
    """For `shard_map` and `pmap`: what gradients are summed in over devices. Default:
    their own dtype."""
    coordinator_address: Annotated[str, Text("host:port", 300)] | None = None
    """`host:port` of process 0, or `auto` on Cloud TPU, GKE and Slurm. Default: this is
    the only process."""
    num_processes: Annotated[int, Whole(1, MAX_DEVICES)] | None = None
    """Number of processes of the run, with `coordinator_address`."""
    process_id: Annotated[int, Whole(0, MAX_DEVICES - 1)] | None = None
    """Number of this process, from 0."""

    def _parallel_requirements(self) -> Iterable[Requirement]:
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
        host, _, port = (address or "").rpartition(":")
        is_port = port.isascii() and port.isdecimal() and 0 < int(port) < 2**16
        yield (
            "coordinator_address",
            not explicit or (host != "" and is_port),
            "host:port, or auto",
        )
        yield (
            "process_id" if self.num_processes is None else "num_processes",
            (None not in numbers) if explicit else numbers == (None, None),
            "to be given, both of num_processes and process_id, exactly if "
            "coordinator_address is host:port",
        )
        yield (
            "process_id",
            self.process_id is None
            or self.num_processes is None
            or self.process_id < self.num_processes,
            "a whole number from 0, below num_processes",
        )
