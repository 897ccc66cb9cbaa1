"""Compiles the training step of a network for a mesh of devices, without running it.

To be imported after the environment of JAX is prepared (see
`cnn_jax.planning.topology`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import optax
from stock_flax import stock_flax, with_stock_activation

import cnn_jax
from cnn_jax.planning.step import plan_step
from cnn_jax.training import TrainConfig


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """A training step: its network, the batch, and how both are spread over devices.

    Attributes:
      model: One of `cnn-jax models`.
      batch: Images a device.
      image_size: Height and width.
      dtype: The dtype of activations; parameters are float32.
      axes: The mesh: name of an axis -> number of devices along it.
      strategy: As for `make_step`.
      scope: Whose images share a batch normalisation's statistics, likewise.
      reduce_dtype: The dtype in which gradients are summed, likewise.
      fields: Fields of the model that differ from its own.
    """

    model: str
    batch: int
    image_size: int
    dtype: str
    axes: Mapping[str, int]
    strategy: str = "jit"
    scope: str = "global"
    reduce_dtype: Any = None
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A compiled step and its statistics.

    Attributes:
      program: The compiled program.
      kept_bytes: What a device keeps of parameters and optimizer state.
      compile_seconds: What compiling took.
    """

    program: Any
    kept_bytes: int
    compile_seconds: float


@dataclasses.dataclass(frozen=True)
class TracedStep:
    """A step that can be compiled, beside others in threads.

    Attributes:
      lowered: The traced program.
      kept_bytes: What a device keeps of parameters and optimizer state.
    """

    lowered: Any
    kept_bytes: int

    def compile(self) -> CompiledStep:
        """Compiles the step."""
        started = time.perf_counter()
        program = self.lowered.compile()
        return CompiledStep(program, self.kept_bytes, time.perf_counter() - started)


def trace_step(
    settings: StepSettings, devices: Sequence[Any], *, platform: str, stock: bool
) -> TracedStep:
    """Traces a step of SGD with momentum.

    Args:
      settings: The step.
      devices: The devices, which need not be there.
      platform: Theirs, as for `kernels.target_platform`.
      stock: Whether the network runs on stock Flax layers instead of ours.
    """
    config = TrainConfig(
        model=settings.model,
        batch_size=settings.batch * len(devices),
        dtype=settings.dtype,
        mesh=",".join(f"{axis}={size}" for axis, size in settings.axes.items()),
        parallel=settings.strategy,
        batch_norm_scope=settings.scope,
        reduce_dtype=settings.reduce_dtype,
        auxiliary_weight=0.0,
    )
    model = cnn_jax.create_model(
        settings.model, dtype=settings.dtype, **settings.fields
    )
    channels = cnn_jax.model_info(settings.model).input_shape[-1]
    step = plan_step(
        model,
        config,
        devices,
        (settings.image_size, settings.image_size, channels),
        platform=platform,
        optimizer=optax.sgd(0.1, momentum=0.9),
    )
    if stock:
        state = step.state.replace(apply_fn=with_stock_activation(model).apply)
        step = dataclasses.replace(step, state=state)
    lowered = step.trace(stock_flax() if stock else None)
    kept = step.kept_bytes()
    return TracedStep(lowered, kept["parameters"] + kept["optimizer"])
