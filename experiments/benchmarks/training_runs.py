"""Takes training steps of one network in several frameworks, and times them."""

from __future__ import annotations

import dataclasses
import functools
import gc
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from stock_flax import stock_flax, with_stock_activation
from training_suite import TORCH, Group

import cnn_jax
from cnn_jax.analysis.timing import Timing, time_interleaved
from cnn_jax.training import TrainConfig, TrainState, state_options, train_step

ROUND_SECONDS = 0.3
"""A round takes as many steps as fill this time, and then waits once."""

MOST_STEPS_PER_ROUND = 100

MOST_WAITING = 3
"""The most that a step timed alone may take, in step times of a round. More
would mean that rounds end before the work does."""


class Trainer:
    """Our training step on one batch, compiled ahead of time.

    Args:
      model: The module; `state` is of it, or of a module with the same variables.
      state: Where training starts.
      batch: `{"image", "label"}` on the device.

    Attributes:
      compile_seconds: What tracing and compiling took.
      temporary_bytes: What a step needs beside its arguments and results, as planned
        by the compiler; None where it does not report it.
      num_parameters: How many the network has.
    """

    def __init__(self, model: nn.Module, state: TrainState, batch: dict[str, Any]):
        state = state.replace(apply_fn=model.apply)
        # Steps consume the state, and others start from it as well.
        self._state, self._batch = jax.tree.map(jnp.copy, state), batch
        self._key = jax.random.key(1)
        self.num_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        started = time.perf_counter()
        # A function of its own: jit would reuse what it traced for another.
        step = jax.jit(functools.partial(train_step), donate_argnums=0)
        self._step = step.lower(self._state, batch, self._key).compile()
        self.compile_seconds = time.perf_counter() - started
        plan = self._step.memory_analysis()
        self.temporary_bytes = plan and plan.temp_size_in_bytes

    def advance(self, steps: int) -> float:
        """Takes so many steps, waits for the device, and returns the last loss."""
        for _ in range(steps):
            self._state, metrics = self._step(self._state, self._batch, self._key)
        jax.block_until_ready((self._state, metrics))
        return float(metrics["loss"])


def make_trainer(framework: str, group: Group, start: TrainState, batch: dict) -> Any:
    """Returns a framework's trainer, compiled where that can be done."""
    if framework in TORCH:
        from torch_networks import Trainer as TorchTrainer

        return TorchTrainer(
            group.model,
            batch["image"],
            batch["label"],
            compiled=framework == "torch_compile",
        )
    model = make_model(group)
    if framework == "ours":
        return Trainer(model, start, batch)
    with stock_flax():
        return Trainer(with_stock_activation(model), start, batch)


def make_model(group: Group) -> nn.Module:
    return cnn_jax.create_model(group.model, dtype=jnp.dtype(group.precision))


def draw(group: Group) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns a state to start from and a batch of noise, on the device."""
    info = cnn_jax.model_info(group.model)
    key = jax.random.key(0)
    shape = (group.batch_size, *(group.image_size,) * 2, info.input_shape[2])
    images = jax.random.normal(key, shape, jnp.dtype(group.precision))
    labels = jax.random.randint(key, shape[:1], 0, info.num_classes)
    create = functools.partial(
        TrainState.create,
        make_model(group),
        optax.sgd(1e-3, momentum=0.9),
        **state_options(TrainConfig(dtype=group.precision)),
    )
    # Run once, so compiled with little optimisation, as the loop does.
    hurry = {"xla_backend_optimization_level": 0}
    on_cpu = jax.default_backend() == "cpu"
    start = jax.jit(create, compiler_options=hurry if on_cpu else None)(key, images[:1])
    return start, {"image": images, "label": labels}


class Runner:
    """A framework's trainer that fails at most once, and then says why.

    Attributes:
      result: What is known so far; `error` if it failed.
      steps: The steps of a round.
    """

    def __init__(self, framework: str, group: Group):
        self.framework = framework
        self.result = {"framework": framework, **dataclasses.asdict(group)}
        self.steps = 1
        self._trainer: Any = None

    @property
    def failed(self) -> bool:
        return "error" in self.result

    def prepare(self, make: Callable[[], Any], max_seconds: float) -> None:
        """Makes the trainer, takes the first steps, and decides how many to a round.

        Args:
          make: Makes it.
          max_seconds: The longest step that is measured again and again.
        """

        def work():
            self._trainer = make()
            seconds, loss = self._timed_step()
            if self.framework == "torch_compile":
                self._trainer.compile_seconds = seconds
            if self.framework in TORCH:
                self._trainer.forget_peak()
            if self.framework == "torch_compile" or seconds <= max_seconds:
                seconds, _ = self._timed_step()
            if seconds > max_seconds:
                raise TimeoutError(f"a step took {seconds:.0f} s.")
            self.steps = min(
                max(1, math.ceil(ROUND_SECONDS / seconds)), MOST_STEPS_PER_ROUND
            )
            self.result |= {
                "first_loss": loss,
                "compile_seconds": getattr(self._trainer, "compile_seconds", None),
                "temporary_bytes": self._trainer.temporary_bytes,
                "parameters": self._trainer.num_parameters,
            }

        self._try(work)

    @property
    def functions(self) -> dict[str, Callable[[], None]]:
        """The functions to time: a round, and for the check one blocking step.

        A round of one step blocks anyway.
        """
        if self.failed:
            return {}
        named = {self.framework: functools.partial(self._advance, self.steps)}
        if self.steps > 1:
            named[self._waited] = functools.partial(self._advance, 1)
        return named

    def finish(self, timings: Mapping[str, Timing]) -> None:
        """Keeps the rounds' seconds, if they stand the check, and frees memory.

        Args:
          timings: Of each of `functions`.
        """
        self._trainer = None
        if self.failed:
            return
        timing = timings[self.framework]
        step_seconds = timing.median / self.steps
        self.result |= {
            "step_seconds": step_seconds,
            "step_quartiles": [quartile / self.steps for quartile in timing.quartiles],
            "rounds": len(timing.seconds),
            "steps_per_round": self.steps,
            "images_per_second": self.result["batch_size"] / step_seconds,
        }
        if self._waited in timings:
            waited = self.result["waited_step_seconds"] = timings[self._waited].median
            if waited > MOST_WAITING * step_seconds:
                self.result["error"] = (
                    f"Self-check: a step takes {step_seconds:.2e} s in rounds of "
                    f"{self.steps}, but {waited:.2e} s when timed alone."
                )

    def _timed_step(self) -> tuple[float, float]:
        """Takes a step and returns its seconds and its loss."""
        started = time.perf_counter()
        loss = self._trainer.advance(1)
        return time.perf_counter() - started, loss

    @property
    def _waited(self) -> str:
        return f"{self.framework}, blocking"

    def _advance(self, steps: int) -> None:
        self._try(lambda: self._trainer.advance(steps))

    def _try(self, work: Callable[[], Any]) -> None:
        if self.failed:
            return
        try:
            work()
        # Whatever a compiler or an allocator raises, the others can still be measured.
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self.result["error"] = f"{type(error).__name__}: {lines[0][:300]}"
            self._trainer = None


def measure(
    group: Group,
    frameworks: Sequence[str],
    *,
    repeats: int,
    max_seconds: float,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Measures frameworks in interleaved rounds.

    Args:
      group: The network, the precision and the batch.
      frameworks: Some of `FRAMEWORKS`.
      repeats: Rounds, at most.
      max_seconds: No round starts after this time, and no step may take longer.
      say: Called with a line for each framework that is ready, or is not.

    Returns:
      One result for each framework, with `error` where it failed.
    """
    runners = [Runner(framework, group) for framework in frameworks]
    drawn: list[Any] = []
    for runner in runners:
        runner.prepare(
            functools.partial(_make_on_batch, runner.framework, group, drawn),
            max_seconds,
        )
        seconds = runner.result.get("compile_seconds")
        ready = "ready" if seconds is None else f"compiled in {seconds:.1f} s"
        say(f"{runner.framework}: {runner.result.get('error', ready)}")
    functions = {
        name: function
        for runner in runners
        for name, function in runner.functions.items()
    }
    timings = {}
    if functions:
        timings = time_interleaved(
            functions, repeats=repeats, min_seconds=0, max_seconds=max_seconds
        )
    for runner in runners:
        runner.finish(timings)
    del drawn
    free_memory()
    results = [runner.result for runner in runners]
    compare(results)
    return results


def _make_on_batch(framework: str, group: Group, drawn: list[Any]) -> Any:
    # Drawn by the first that gets so far: it may not fit into memory either.
    if not drawn:
        drawn.append(draw(group))
    return make_trainer(framework, group, *drawn[0])


def compare(results: Sequence[dict[str, Any]]) -> None:
    """Adds how many times as fast as stock Flax each of a group's results is."""
    seconds = {
        result["framework"]: result["step_seconds"]
        for result in results
        if "error" not in result
    }
    for result in results:
        if "stock" in seconds and result["framework"] in seconds:
            result["speed_up"] = seconds["stock"] / seconds[result["framework"]]


def free_memory() -> None:
    """Frees the memory of deleted trainers, so that the next group finds memory."""
    gc.collect()
    if "torch_networks" in sys.modules:
        sys.modules["torch_networks"].free_memory()
