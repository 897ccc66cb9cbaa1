"""The memory that a run will need, compared with what there is before it is allocated.

Twice: by what is known before anything is written or compiled (the data, the parameters
and a batch of images, less than which no step needs), and by the compiler's plan of the
programs. Where a device does not tell how much memory it has, or the compiler has no
plan, nothing is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cnn_jax import data, memory, sharding
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.run.compiled import CompiledRun
from cnn_jax.training.run.images import ImageFormat


def check_estimate(
    config: TrainConfig,
    splits: Mapping[str, data.Source | data.Batches],
    images: ImageFormat,
    variables: Mapping[str, Any],
    mesh: Mesh,
) -> None:
    """Checks that the least that a run can need fits on each device.

    Args:
      config: The run's configuration.
      splits: The datasets, of which those in memory go onto every device.
      images: The images that the model gets.
      variables: The shapes and dtypes of the model's variables.
      mesh: The devices.

    Raises:
      ValueError: If it does not fit.
    """
    resident = sum(
        split.images.nbytes + split.labels.nbytes
        for split in splits.values()
        if isinstance(split, data.Dataset)
    )
    parameters = sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(variables)
    )
    pixels = config.batch_size * math.prod(images.shape) // config.accumulate_steps
    needed = {
        "the data": resident,
        # Of which a step needs the gradients as well.
        "parameters and gradients": 2 * parameters // _num_parts(mesh),
        "a batch of images": pixels * jnp.dtype(images.dtype).itemsize // mesh.size,
    }
    _require(needed, config, mesh)


def check_carry(config: TrainConfig, carry: Any, mesh: Mesh) -> None:
    """Checks that what is carried from step to step fits, before it is compiled for.

    Args:
      config: The run's configuration.
      carry: Shapes, dtypes and shardings of its leaves.
      mesh: The devices.

    Raises:
      ValueError: If it does not fit beside what is there already.
    """
    _require({"parameters and optimizer state": _shard_bytes(carry)}, config, mesh)


def check_plan(config: TrainConfig, compiled: CompiledRun, mesh: Mesh) -> None:
    """Checks that a run fits by the compiler's plan, before its first step.

    Args:
      config: The run's configuration.
      compiled: Its programs.
      mesh: The devices, which have the data already.

    Raises:
      ValueError: If it does not fit beside what is there already.
    """
    start, step = compiled.plans["start"], compiled.plans["step"]
    if start is None or step is None:
        return
    # The first program makes the state, the other one goes on from it: not at once.
    temporaries = max(
        start.temp_size_in_bytes,
        step.temp_size_in_bytes + step.output_size_in_bytes - step.alias_size_in_bytes,
    )
    needed = {
        "parameters and optimizer state": _shard_bytes(compiled.carry),
        "a step's temporaries and results": temporaries,
    }
    _require(needed, config, mesh)


def _require(needed: dict[str, int], config: TrainConfig, mesh: Mesh) -> None:
    memory.require(
        {name: number for name, number in needed.items() if number > 0},
        what=f"a run of {config.model} on {mesh.devices.flat[0].device_kind}",
        advice=f"lower batch_size (it is {config.batch_size}) or image_size, raise "
        f"accumulate_steps (it is {config.accumulate_steps}), use more devices, or a "
        "model with remat=True",
        available=_available(mesh),
    )


def _available(mesh: Mesh) -> int | None:
    """Returns the free bytes of each device; None if they do not tell."""
    device = mesh.local_devices[0] if mesh.local_devices else None
    if device is None:
        return None
    if device.platform == "cpu":
        free = memory.available_bytes()  # which all of them share
        return None if free is None else free // len(mesh.local_devices)
    try:
        found = device.memory_stats() or {}
    except Exception:  # of a device that is only described, each backend has its own
        return None
    if "bytes_limit" not in found:
        return None
    return found["bytes_limit"] - found.get("bytes_in_use", 0)


def _shard_bytes(tree: Any) -> int:
    """Returns the bytes of a tree's leaves on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * _itemsize(leaf.dtype)
        for leaf in jax.tree.leaves(tree)
    )


def _itemsize(dtype: Any) -> int:
    # Keys of jax.random have dtypes of their own.
    return getattr(dtype, "itemsize", 0)


def _num_parts(mesh: Mesh) -> int:
    return mesh.shape.get(sharding.FSDP_AXIS, 1)
