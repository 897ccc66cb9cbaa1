"""A run's speed: a stopwatch, a progress bar, a trace of steps, and the chip's peak."""

from __future__ import annotations

import contextlib
import math
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from cnn_jax import messages
from cnn_jax.chips import PEAK_FLOPS
from cnn_jax.training.devices.processes import is_main_process

FLOPS_PER_MAC = 6
"""Of a training step: two forward, and two each for the gradients of both operands."""


class Stopwatch:
    """Times training by intervals between points at which the device was waited for.

    Dispatch is asynchronous, so a single step's time is not known; an interval's is,
    from one point at which the host held a result to the next.

    Args:
      waited: Returns the seconds spent waiting for data so far.
      now: The clock, in seconds.

    Attributes:
      interval_step_seconds: Mean seconds of a step, for each interval.
      seconds: Training seconds so far.
      waited_seconds: Those of them that were spent waiting for data.
    """

    def __init__(
        self,
        waited: Callable[[], float],
        now: Callable[[], float] = time.perf_counter,
    ):
        self._waited, self._now = waited, now
        self.interval_step_seconds: list[float] = []
        self.seconds: float = 0.0
        self.waited_seconds: float = 0.0
        self.start(0)

    def start(self, step: int) -> None:
        """Begins an interval behind `step`; nothing before it is counted."""
        self._started = (self._now(), self._waited(), step)

    def stop(self, step: int) -> float:
        """Ends the interval, counts it if it has a step, and begins the next.

        Returns:
          Its seconds, 0.0 without a step.
        """
        started, waited, first = self._started
        if step == first:
            return 0.0
        seconds = self._now() - started
        self.interval_step_seconds.append(seconds / (step - first))
        self.seconds += seconds
        self.waited_seconds += self._waited() - waited
        self.start(step)
        return seconds

    @property
    def waiting_share(self) -> float:
        """The part of the training seconds that was spent waiting for data."""
        return self.waited_seconds / max(self.seconds, 1e-9)

    def step_seconds(self) -> dict[str, float]:
        """Returns the median, 90th and 99th percentile of a step's seconds.

        NaN if there was no interval.
        """
        found = self.interval_step_seconds
        if not found:
            return dict.fromkeys(("median", "p90", "p99"), math.nan)
        return {
            "median": statistics.median(found),
            "p90": float(np.percentile(found, 90)),
            "p99": float(np.percentile(found, 99)),
        }


class StepTrace:
    """A profiler's trace of some steps, to be opened in TensorBoard or XProf.

    Args:
      steps: The first step to trace and the first not to; None traces none.
      run_dir: Its subdirectory `profile` gets the trace.
    """

    def __init__(self, steps: tuple[int, int] | None, run_dir: str | None):
        self._steps = steps
        self._directory = None
        if run_dir is not None:
            self._directory = pathlib.Path(run_dir).expanduser() / "profile"
        self._is_tracing = False

    def at(self, step: int, carry: Any) -> None:
        """Starts or ends the trace if `step` finished steps call for it."""
        if self._steps is None or step not in self._steps:
            return
        # What was dispatched before belongs to the steps before.
        jax.block_until_ready(carry)
        if step == self._steps[0]:
            assert self._directory is not None  # `profile_steps` need a `run_dir`
            jax.profiler.start_trace(self._directory)
            self._is_tracing = True
        else:
            self.close()

    def close(self) -> None:
        """Ends the trace, if one is under way."""
        if self._is_tracing:
            self._is_tracing = False
            jax.profiler.stop_trace()


def model_flops_utilization(
    macs_per_example: int | None, examples_per_second: float, devices: Any
) -> float | None:
    """Returns the share of the devices' peak that the model's own arithmetic takes.

    Counted are 6 FLOPs for each multiply-add of a forward pass (two in it, four in the
    backward pass), whatever a program computes beside them or again.

    Args:
      macs_per_example: Multiply-adds of a forward pass, or None.
      examples_per_second: Over all devices.
      devices: The devices, of one kind.

    Returns:
      The share, or None where the count or the peak is not known.
    """
    devices = list(devices)
    peak = PEAK_FLOPS.get(devices[0].device_kind)
    if macs_per_example is None or peak is None:
        return None
    needed = FLOPS_PER_MAC * macs_per_example * examples_per_second
    return needed / (peak * len(devices))


@contextlib.contextmanager
def progress_bar(
    num_steps: int, *, shown: bool
) -> Iterator[Callable[[int, str], None]]:
    """Shows a bar with the time left; yields what moves it."""
    bar = messages.progress(shown=shown and is_main_process())
    with bar:
        task = bar.add_task("starting", total=num_steps)
        yield lambda step, text: bar.update(task, completed=step, description=text)
