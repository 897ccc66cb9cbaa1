"""Training steps in several forms, and fresh processes that compile one."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from timed import Call, Slower, describe, ratio_sentence, times_chart, times_table

from cnn_jax import create_model
from cnn_jax.analysis.timing import Timing
from cnn_jax.report import html
from cnn_jax.studies import Context, Measurement
from cnn_jax.training import TrainConfig, TrainState, state_options, train_step

NETWORK = "resnet20"


_FEW_LAYERS = {"stage_sizes": (1, 1, 1)}


def _hurried() -> dict[str, Any] | None:
    """Returns options of a compilation with little optimisation, on a CPU."""
    if jax.default_backend() != "cpu":
        return None
    return {"xla_backend_optimization_level": 0}


@functools.cache
def _state(dtype: str, fields: tuple[tuple[str, Any], ...]) -> TrainState:
    model = create_model(NETWORK, dtype=dtype, **dict(fields))
    create = functools.partial(
        TrainState.create,
        model,
        optax.sgd(1e-3, momentum=0.9),
        **state_options(TrainConfig(dtype=dtype)),
    )
    x = jnp.zeros((1, 32, 32, 3), jnp.dtype(dtype))
    # Run once, so compiled with little optimisation.
    return jax.jit(create, compiler_options=_hurried())(jax.random.key(0), x)


def _start(
    batch: int, dtype: str, fields: Mapping[str, Any]
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns a state of the network and a batch of noise of CIFAR-10's shape."""
    key = jax.random.key(0)
    images = jax.random.normal(key, (batch, 32, 32, 3), jnp.dtype(dtype))
    labels = jax.random.randint(key, (batch,), 0, 10)
    # Steps consume the state, and others start from it as well.
    state = jax.tree.map(jnp.copy, _state(dtype, tuple(fields.items())))
    return state, {"image": images, "label": labels}


def step(
    batch: int,
    dtype: str = "float32",
    *,
    is_smoke: bool,
    donate: bool = True,
    **fields: Any,
) -> Call:
    """Returns a training step: forward, backward, update.

    Args:
      batch: Images.
      dtype: Of activations; parameters stay float32.
      is_smoke: Whether a few layers do, compiled with little optimisation.
      donate: Whether the new state takes the old one's memory.
      **fields: Of the network.
    """
    state, images = _start(batch, dtype, fields | (_FEW_LAYERS if is_smoke else {}))
    jitted = jax.jit(
        functools.partial(train_step),
        donate_argnums=(0,) if donate else (),
        compiler_options=_hurried() if is_smoke else None,
    )
    key = jax.random.key(1)
    compiled = jitted.lower(state, images, key).compile()

    def run() -> Any:
        nonlocal state
        state, metrics = compiled(state, images, key)
        return state, metrics

    plan, facts = compiled.memory_analysis(), {}
    if plan is not None:
        held = plan.argument_size_in_bytes + plan.output_size_in_bytes
        facts = {
            "temporaries": plan.temp_size_in_bytes,
            "held": held - plan.alias_size_in_bytes,
        }
    return Call(run, batch, facts)


def dtypes(is_smoke: bool) -> dict[str, Call]:
    """Returns a step in float32 and in bfloat16."""
    batch = 4 if is_smoke else 64
    return {
        dtype: step(batch, dtype, is_smoke=is_smoke)
        for dtype in ("float32", "bfloat16")
    }


def batches(is_smoke: bool) -> dict[str, Call]:
    """Returns steps of several batch sizes."""
    sizes = (1, 64) if is_smoke else (1, 4, 16, 64, 256)
    return {f"batch {size}": step(size, is_smoke=is_smoke) for size in sizes}


def recomputation(is_smoke: bool) -> dict[str, Call]:
    """Returns a step that keeps activations, and one that computes them anew."""
    make = functools.partial(step, 4 if is_smoke else 128, is_smoke=is_smoke)
    return {"kept": make(), "computed anew": make(remat=True)}


def donation(is_smoke: bool) -> dict[str, Call]:
    """Returns a step whose state takes the old one's memory, and one that does not."""
    make = functools.partial(step, 2 if is_smoke else 8, is_smoke=is_smoke)
    return {"donated": make(), "copied": make(donate=False)}


def fusion(is_smoke: bool) -> dict[str, Call]:
    """Returns a network's forward pass as one program and op by op."""
    batch = 2 if is_smoke else 16
    state, images = _start(batch, "float32", _FEW_LAYERS if is_smoke else {})
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    # Arguments of the program: what it closes over would be computed by the compiler.
    arguments = (variables, images["image"])
    apply = functools.partial(state.apply_fn, train=False)
    program = jax.jit(apply).lower(*arguments).compile()
    return {
        "one program": Call(functools.partial(program, *arguments), batch),
        "op by op": Call(functools.partial(apply, *arguments), batch),
    }


_START = """
import jax, jax.numpy as jnp
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
from cnn_jax import create_model
model = create_model("{network}")
x = jnp.zeros((8, 32, 32, 3))
variables = jax.jit(lambda key: model.init(key, x, train=False))(jax.random.key(0))
def loss(params):
    return model.apply({{**variables, "params": params}}, x, train=False).sum()
jax.block_until_ready(jax.jit(jax.grad(loss))(variables["params"]))
"""

COLD, WARM = "empty cache", "filled cache"


def _measure_starts(context: Context) -> dict[str, Any]:
    """Times fresh processes that compile, with an empty and with a filled cache."""
    network = "lenet5" if context.is_smoke else NETWORK
    program = _START.replace("32, 32, 3", "32, 32, 1") if context.is_smoke else _START
    seconds: dict[str, list[float]] = {COLD: [], WARM: []}
    for _ in range(1 if context.is_smoke else 3):
        with tempfile.TemporaryDirectory(prefix="programs-") as directory:
            # This process may hold the accelerator, which is one process's at a time.
            settings = {"JAX_COMPILATION_CACHE_DIR": directory, "JAX_PLATFORMS": "cpu"}
            for label in (COLD, WARM):
                started = time.perf_counter()
                subprocess.run(
                    [sys.executable, "-c", program.format(network=network)],
                    env=os.environ | settings,
                    check=True,
                    capture_output=True,
                )
                seconds[label].append(time.perf_counter() - started)
    return {
        label: describe(Call(lambda: None), Timing(tuple(each), 1, each[0]))
        for label, each in seconds.items()
    }


def _show_starts(found: Mapping[str, Any]) -> Sequence[Any]:
    return [
        times_table("A process until its first gradient", found),
        html.Charts([times_chart("A process until its first gradient", found)]),
        html.Paragraph(
            "XLA compiles a program for the machine once; the cache keeps it on disk "
            "under a hash of the program, the versions and the flags. What is left of "
            "the second start is Python's imports, tracing and reading the cache. "
            "These processes compile for the host's CPU, wherever the rest ran."
        ),
    ]


def _say_starts(found: Mapping[str, Any]) -> list[str]:
    claim = Slower("A start with an empty compilation cache takes longer", COLD, WARM)
    return [ratio_sentence(claim, found)]


STARTS = Measurement("starts", _measure_starts, _show_starts, _say_starts, cost=1e11)
