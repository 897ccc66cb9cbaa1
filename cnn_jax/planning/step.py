"""The training step of a run, traced for devices that need not be there."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from cnn_jax import kernels, sharding
from cnn_jax.kernels.platforms import Platform
from cnn_jax.training import TrainState
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.devices.spread import ParallelStep
from cnn_jax.training.optimizers.optimizer import make_optimizer
from cnn_jax.training.optimizers.roles import required_roles
from cnn_jax.training.optimizers.schedules import make_schedule
from cnn_jax.training.run.spreading import configured_shardings, spread_step
from cnn_jax.training.step.state import state_options
from cnn_jax.training.step.training import step_options

EXAMPLES_PER_EPOCH = 1_281_167
"""Examples of an epoch, ImageNet's. Only constants of the learning rate's schedule
follow from it."""


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedStep:
    """A step by its shapes.

    Attributes:
      config: The configuration of the run that would take it.
      mesh: The devices.
      platform: What their kernels are chosen for.
      step: The step over the mesh.
      state: Shapes and dtypes of the `TrainState`.
      batch: Shapes, dtypes and shardings of a batch.
      shardings: Those of the state.
    """

    config: TrainConfig
    mesh: Mesh
    platform: Platform
    step: ParallelStep
    state: Any
    batch: Mapping[str, Any]
    shardings: Any

    def trace(self, layers: Any = None) -> jax.stages.Lowered:
        """Returns the traced program, which can be compiled.

        Args:
          layers: A context to trace the network in; None for none.
        """
        key = jax.eval_shape(functools.partial(jax.random.key, 0))
        with kernels.target_platform(self.platform), layers or contextlib.nullcontext():
            return self.step.jitted().lower(self.state, dict(self.batch), key)

    def kept_bytes(self) -> dict[str, int]:
        """Returns the bytes of a device that stay from step to step, by their part."""
        parts = ("params", "opt_state", "batch_stats", "average")
        names = ("parameters", "optimizer", "batch_statistics", "averages")
        return {
            name: sharding.bytes_per_device(
                getattr(self.state, part), getattr(self.shardings, part)
            )
            for name, part in zip(names, parts, strict=True)
        }

    def batch_bytes(self) -> int:
        """Returns the bytes of a device's share of a batch."""
        shardings = {name: leaf.sharding for name, leaf in self.batch.items()}
        return sharding.bytes_per_device(self.batch, shardings)


def plan_step(
    model: Any,
    config: TrainConfig,
    devices: Sequence[Any],
    image_shape: tuple[int, int, int],
    *,
    platform: Platform,
    optimizer: optax.GradientTransformation | None = None,
) -> PlannedStep:
    """Returns the step that a run of a configuration takes.

    Args:
      model: The network.
      config: The run's configuration; its `mesh` has the devices' number.
      devices: The devices.
      image_shape: Height, width and channels of the images, which come normalised and
        in the model's dtype.
      platform: Theirs.
      optimizer: In place of the configuration's; None for that.

    Raises:
      ValueError: If these do not go together.
    """
    mesh = sharding.make_mesh(devices, config.mesh)
    count = config.batch_size
    sharding.check_batch_size(count, mesh)
    sharding.check_image_height(image_shape[0], mesh)
    image = jax.ShapeDtypeStruct((count, *image_shape), jnp.dtype(config.dtype))
    batch = {"image": image, "label": jax.ShapeDtypeStruct((count,), jnp.int32)}
    steps_per_epoch = max(1, EXAMPLES_PER_EPOCH // count)
    with kernels.target_platform(platform):
        if optimizer is None:
            optimizer = make_optimizer(
                config,
                make_schedule(config, steps_per_epoch),
                roles=required_roles(config, model, image),
                steps_per_epoch=steps_per_epoch,
            )
        create = functools.partial(
            TrainState.create, model, optimizer, **state_options(config)
        )
        key = jax.eval_shape(functools.partial(jax.random.key, 0))
        state = jax.eval_shape(create, key, image)
    shardings = configured_shardings(state, config, mesh)
    options = step_options(config, steps_per_epoch, model)
    step = spread_step(options, config, mesh, shardings)
    placed = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=where
        ),
        batch,
        step.batch(batch),
    )
    return PlannedStep(config, mesh, platform, step, state, placed, shardings)
