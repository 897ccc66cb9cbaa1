"""The step of a run, spread over devices as its configuration says.

It needs shapes alone, so that a step is planned for devices that are not there by the
same calls.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax.sharding import Mesh

from cnn_jax import sharding
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.devices.spread import ParallelStep, make_step
from cnn_jax.training.step.training import StepOptions, train_step


def configured_shardings(state: Any, config: TrainConfig, mesh: Mesh) -> Any:
    """Returns the sharding of each leaf of a run's state.

    Args:
      state: The `TrainState`, or its shapes.
      config: The run's configuration.
      mesh: The devices.

    Raises:
      ValueError: If `sharding_rules` cannot be followed.
    """
    if sharding.FSDP_AXIS not in mesh.shape:
        everywhere = sharding.replicated(mesh)
        return jax.tree.map(lambda leaf: everywhere, state)
    rules = [
        (pattern, sharding.parse_partition(partition))
        for pattern, partition in config.sharding_rules
    ]
    return sharding.state_shardings(state, mesh, rules=rules)


def spread_step(
    options: StepOptions, config: TrainConfig, mesh: Mesh, state_shardings: Any
) -> ParallelStep:
    """Returns `train_step` over a mesh.

    Args:
      options: The step's.
      config: The run's configuration, which says how the step is spread.
      mesh: The devices.
      state_shardings: As `configured_shardings` returns them.

    Raises:
      ValueError: If these do not go together, as `make_step` says.
    """
    is_split = sharding.FSDP_AXIS in mesh.shape
    return make_step(
        functools.partial(train_step, options=options),
        strategy=config.parallel,
        mesh=mesh,
        batch_norm_scope=config.batch_norm_scope,
        state_shardings=state_shardings if is_split else None,
        reduce_dtype=config.reduce_dtype,
    )
