"""The compiled programs of a run, and the carry that they pass on.

One program takes a batch from its feed's inputs, crops, flips, normalises and trains on
it; the host only calls it, and passes nothing in but arrays that are on the devices
already. Everything is compiled ahead of time, so that compilation is timed apart and a
second compilation is an error rather than a pause.

The *carry* is all that changes from step to step, one tree, donated to each step:

    state           the TrainState
    epoch           sums of the metrics since the epoch began
    interval        sums of the metrics since the last log line
    first_bad_step  the first step whose loss or gradients were not finite, or -1
    first_bad_leaf  and the first such leaf of its gradients, or -1
    num_skipped     the steps whose update was skipped for it
    learning_rate   of the last step; 0 where no schedule is known

Nothing here knows a configuration, data or keys: shapes go in, programs come out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cnn_jax import data, sharding, trees
from cnn_jax.training.step.evaluation import Metrics, evaluation_metrics
from cnn_jax.training.step.state import TrainState

Carry = dict[str, Any]

BATCHES_PER_SUM = 256
"""Batches of an evaluation that are summed in float32 before the host adds them up."""


class CompiledRun:
    """The programs of runs that differ in seed, start and examples alone.

    Args:
      start: `(key, initial_variables) -> carry`.
      advance: `(carry, inputs, key) -> carry`.
      evaluate: `(state, batch, sums) -> sums`.
      zero_sums: `() -> sums`.
      key: Shape, dtype and sharding of the keys.
      initial: Those of the variables to start from; None for a start that draws them.
      carry: Those of the carry, a tree.
      inputs: Those of a feed's inputs.
      batch: Those of a batch to evaluate; None where nothing is.
      mesh: The devices.
      definition: Everything that the programs follow from, by name.

    Attributes:
      definition: As given, for whoever has other parts to run.
      devices: The devices.
      carry: As given.
      plans: The compiler's plans of memory, of the programs `"start"` and `"step"`;
        None where it does not tell.
      compile_seconds: Seconds that tracing and compiling took.
      peak_memory_bytes: Bytes that the training step needs on one device: arguments,
        results and temporaries, as planned by the compiler; 0 where it does not tell.
    """

    def __init__(
        self,
        *,
        start: Callable[[jax.Array, Any], Carry],
        advance: Callable[[Carry, Any, jax.Array], Carry],
        evaluate: Callable[[TrainState, data.Arrays, Metrics], Metrics],
        zero_sums: Callable[[], Metrics],
        key: Any,
        initial: Any,
        carry: Carry,
        inputs: Any,
        batch: Any,
        mesh: Mesh,
        definition: Mapping[str, Any],
    ):
        self.definition: Mapping[str, Any] = definition
        self._everywhere = sharding.replicated(mesh)
        self._first_bad: Any = None
        self.carry: Carry = carry
        self.devices: tuple[Any, ...] = tuple(mesh.devices.flat)
        started = time.perf_counter()
        carry_shardings = jax.tree.map(lambda leaf: leaf.sharding, carry)
        # Run once, so compiled fast: with every optimisation, XLA's CPU compiler takes
        # half a minute over the random numbers of a deep network.
        fast_compile_options = {"xla_backend_optimization_level": 0}
        on_cpu = self.devices[0].platform == "cpu"
        self._start = self._compile(
            start,
            key,
            initial,
            out=carry_shardings,
            options=fast_compile_options if on_cpu else None,
        )
        self._zero_tally = self._compile(zero_tally)
        self._zero_sums = self._compile(zero_sums)
        self._step = self._compile(
            advance, carry, inputs, key, out=carry_shardings, donate=0
        )
        self._evaluate: Any = None
        if batch is not None:
            self._evaluate = self._compile(
                evaluate, carry["state"], batch, self._zero_sums(), donate=2
            )
        self.compile_seconds: float = time.perf_counter() - started
        self.plans: Mapping[str, Any] = {
            "start": _memory_plan(self._start),
            "step": _memory_plan(self._step),
        }
        self.peak_memory_bytes: int = _memory_bytes(self.plans["step"])

    def start(self, key: jax.Array, initial: Any) -> Carry:
        """Returns the carry before the first step."""
        return self._start(key, initial)

    def step(self, carry: Carry, inputs: Any, key: jax.Array) -> Carry:
        """Trains on what a feed gave for the step; the carry given is consumed."""
        return self._step(carry, inputs, key)

    def evaluate(
        self, state: TrainState, batches: Iterable[data.Arrays]
    ) -> dict[str, float]:
        """Returns the `evaluation_metrics` of a split's batches."""
        sums, totals = self._zero_sums(), []
        batches = map(self._wait_on_cpu, batches)
        for number, batch in enumerate(batches, start=1):
            sums = self._wait_on_cpu(self._evaluate(state, batch, sums))
            if number % BATCHES_PER_SUM == 0:
                totals.append(jax.device_get(sums))
                sums = self._zero_sums()
        totals.append(jax.device_get(sums))
        return evaluation_metrics(
            {
                # A float64, or a Python integer's worth of one.
                key: np.sum([total[key] for total in totals], axis=0, dtype=np.float64)
                for key in totals[0]
            }
        )

    def bad_leaf(self, state: TrainState) -> str | None:
        """Returns the path of the first leaf that holds a NaN or an infinity, or None.

        Compiled when it is first asked for, that is before the first checkpoint.
        """
        if self._first_bad is None:
            self._first_bad = self._compile(trees.first_bad_leaf, state)
        number = int(jax.device_get(self._first_bad(state)))
        return None if number < 0 else list(trees.named_leaves(state))[number]

    def reset(self, carry: Carry, tally: str) -> Carry:
        """Returns the carry with one of its sums, "epoch" or "interval", at zero."""
        return {**carry, tally: self._zero_tally()}

    def gather(self, tree: Any) -> Any:
        """Returns a tree of arrays that this process can read whole."""
        leaves = jax.tree.leaves(tree)
        if all(
            leaf.is_fully_addressable or leaf.is_fully_replicated for leaf in leaves
        ):
            return tree
        # By one function, so that each structure is compiled once.
        return jax.jit(_identity, out_shardings=self._everywhere)(tree)

    def _wait_on_cpu(self, arrays: Any) -> Any:
        """Returns arrays; on several devices of a CPU once they are computed.

        There all devices share a few threads, and XLA may have given each of them to a
        program that waits for a device whose turn is behind the next program's.
        """
        if self.devices[0].platform == "cpu" and len(self.devices) > 1:
            jax.block_until_ready(arrays)
        return arrays

    def _compile(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        donate: Any = (),
        out: Any = None,
        options: dict[str, Any] | None = None,
    ) -> Any:
        program = jax.jit(
            function,
            out_shardings=out or self._everywhere,
            donate_argnums=donate,
            compiler_options=options,
        )
        return program.lower(*arguments).compile()


def place_evaluated(state: TrainState, variables: Any) -> TrainState:
    """Returns the state with host arrays as what is evaluated."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state.evaluated_variables)
    return state.with_evaluated(jax.device_put(variables, shardings))


def new_carry(state: TrainState) -> Carry:
    """Returns the carry of a state before its first step."""
    return {
        "state": state,
        "epoch": zero_tally(),
        "interval": zero_tally(),
        "first_bad_step": jnp.full((), -1, jnp.int32),
        "first_bad_leaf": jnp.full((), -1, jnp.int32),
        "num_skipped": jnp.zeros((), jnp.int32),
        "learning_rate": jnp.zeros((), jnp.float32),
    }


def advance_carry(
    carry: Carry,
    new_state: TrainState,
    metrics: Metrics,
    *,
    learning_rate: jax.Array,
    skips_non_finite: bool,
) -> Carry:
    """Returns the carry after a step, with what the step adds to its sums.

    Args:
      carry: The carry before.
      new_state: The state after.
      metrics: Those of `train_step`.
      learning_rate: Of the step.
      skips_non_finite: Whether steps that were not finite are left out of the means.
    """
    # With a loss scale, gradients that overflow are in order.
    is_bad = ~jnp.isfinite(metrics["loss"])
    if carry["state"].loss_scale is None:
        is_bad |= metrics["bad_leaf"] >= 0
    is_first = is_bad & (carry["first_bad_step"] < 0)
    tallied = {
        "loss": metrics["loss"],
        "accuracy": metrics["accuracy"],
        "steps": jnp.ones(()),
        "skipped": metrics["skipped"],
    }
    if skips_non_finite:
        tallied = {
            name: value if name == "skipped" else jnp.where(is_bad, 0.0, value)
            for name, value in tallied.items()
        }
    return {
        "state": new_state,
        "epoch": jax.tree.map(jnp.add, carry["epoch"], tallied),
        "interval": jax.tree.map(jnp.add, carry["interval"], tallied),
        "first_bad_step": jnp.where(is_first, new_state.step, carry["first_bad_step"]),
        "first_bad_leaf": jnp.where(
            is_first, metrics["bad_leaf"], carry["first_bad_leaf"]
        ),
        "num_skipped": carry["num_skipped"] + is_bad.astype(jnp.int32),
        "learning_rate": learning_rate,
    }


def zero_tally() -> Metrics:
    """Returns the zeros that an epoch's or an interval's sums start from."""
    return {name: jnp.zeros(()) for name in ("loss", "accuracy", "steps", "skipped")}


def means_of(tally: Mapping[str, Any]) -> dict[str, float]:
    """Returns the means that a tally says of its steps; NaN if all were skipped."""
    steps = float(tally["steps"]) or float("nan")
    return {name: float(tally[name]) / steps for name in ("loss", "accuracy")}


def _identity(tree: Any) -> Any:
    return tree


def _memory_plan(program: Any) -> Any:
    try:
        return program.memory_analysis()
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return None


def _memory_bytes(plan: Any) -> int:
    if plan is None:
        return 0
    return (
        plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        + plan.temp_size_in_bytes
        - plan.alias_size_in_bytes
    )
