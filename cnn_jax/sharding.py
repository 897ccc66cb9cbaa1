"""Meshes of devices, and where arrays lie on them.

Training is global-view SPMD: one program on all devices, the state replicated and the
batch split along the mesh's "data" axis; XLA inserts the reductions. Batch-norm
statistics are then those of the global batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"
"""The mesh axis along which a batch is split."""


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Makes a one-dimensional mesh with the axis `"data"`.

    The axis type is `Auto`, under which shardings spread through a program by
    themselves (`jax.make_mesh` would give `Explicit`, where linen's own layers fail).

    Args:
      devices: The devices to use, all of the default backend's when None.

    Returns:
      The mesh.

    Raises:
      ValueError: If `devices` is empty.
    """
    devices = jax.devices() if devices is None else list(devices)
    if not devices:
        raise ValueError("devices: got none, expected at least one.")
    return Mesh(np.asarray(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that keeps a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the first dimension over the data axis."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Checks that every device gets the same number of examples.

    Raises:
      ValueError: If the mesh's data axis does not divide `batch_size`.
    """
    num_shards = mesh.shape[DATA_AXIS]
    if batch_size <= 0 or batch_size % num_shards:
        lower = batch_size - batch_size % num_shards
        near = [size for size in (lower, lower + num_shards) if size > 0]
        raise ValueError(
            f"batch_size: got {batch_size}, expected a positive multiple of the "
            f"{num_shards} devices on the mesh's {DATA_AXIS!r} axis, such as "
            f"{' or '.join(map(str, near or [num_shards]))}."
        )
