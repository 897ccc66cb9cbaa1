"""Compiles the training step of a network for a mesh of devices, without running it.

To be imported after the environment of JAX is prepared (see `tpu_slice.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from stock_flax import stock_flax, with_stock_activation

import cnn_jax
from cnn_jax import kernels, sharding
from cnn_jax.training import TrainState, train_step
from cnn_jax.training.devices.spread import make_step


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
    mesh = sharding.make_mesh(devices, settings.axes)
    dtype = jnp.dtype(settings.dtype)
    model = cnn_jax.create_model(settings.model, dtype=dtype, **settings.fields)
    channels = cnn_jax.model_info(settings.model).input_shape[-1]
    count = settings.batch * len(devices)
    image = jax.ShapeDtypeStruct((count, *(settings.image_size,) * 2, channels), dtype)
    batch = {"image": image, "label": jax.ShapeDtypeStruct((count,), jnp.int32)}
    create = functools.partial(TrainState.create, model, optax.sgd(0.1, momentum=0.9))
    key = jax.eval_shape(functools.partial(jax.random.key, 0))
    layers = stock_flax() if stock else contextlib.nullcontext()
    with kernels.target_platform(platform):
        state = jax.eval_shape(create, key, image)
        if stock:
            state = state.replace(apply_fn=with_stock_activation(model).apply)
        shardings = sharding.state_shardings(state, mesh)
        step = make_step(
            train_step,
            strategy=settings.strategy,
            mesh=mesh,
            batch_norm_scope=settings.scope,
            state_shardings=shardings if "fsdp" in settings.axes else None,
            reduce_dtype=settings.reduce_dtype,
        )
        placed = jax.tree.map(_with_sharding, batch, step.batch(batch))
        with layers:
            lowered = step.jitted().lower(state, placed, key)
    kept = {"params": state.params, "opt_state": state.opt_state}
    where = {"params": shardings.params, "opt_state": shardings.opt_state}
    return TracedStep(lowered, sharding.bytes_per_device(kept, where))


def _with_sharding(leaf: Any, where: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
