"""Interleaved timing: which of several functions is faster, on a machine that drifts.

Timing one function after another compares two moments of the machine as much as two
functions: clocks change, other programs come and go. Here every round calls each
function once (or a few times, when it is quick), every other round in reverse order,
so that a slow moment falls on all of them alike. Medians of the rounds are compared.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Timing:
    """Times of the calls of one function.

    Attributes:
      seconds: Seconds per call, one entry for each round, in the order measured.
      calls_per_round: How many calls each entry is the mean of.
      first_call_seconds: The very first call, compilation included.
    """

    seconds: tuple[float, ...]
    calls_per_round: int
    first_call_seconds: float

    @property
    def median(self) -> float:
        """The median round, in seconds per call."""
        return statistics.median(self.seconds)

    @property
    def minimum(self) -> float:
        """The fastest round, in seconds per call."""
        return min(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile of the rounds, in seconds per call."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high


def time_interleaved(
    functions: Mapping[str, Callable[[], Any]],
    *,
    repeats: int = 11,
    warm_up: int = 1,
    min_seconds: float = 0.002,
    max_seconds: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Times functions against each other, in interleaved rounds.

    A call ends when every JAX array in what it returned is ready, so a function must
    return the result it is timed for. Arguments that should not be timed (data on the
    device, compiled programs) belong into the closures.

    Args:
      functions: What to time, by name: functions of no arguments.
      repeats: The number of rounds.
      warm_up: Calls of each function after its first (which compiles) that are not
        counted. The last of them decides how many calls make up a round.
      min_seconds: A round calls a function as often as it takes to fill this time, so
        that the clock's resolution does not matter for quick functions.
      max_seconds: No new round starts after this time in rounds (the first one
        always runs); `None` for no limit.
      clock: Returns the time in seconds; replaced in tests.

    Returns:
      One `Timing` for each name, in the order of `functions`.

    Raises:
      ValueError: If there is nothing to time, or `repeats` or `warm_up` is below 1.
    """
    if not functions:
        raise ValueError("functions: got none, expected at least one to time.")
    for name, count in {"repeats": repeats, "warm_up": warm_up}.items():
        if count < 1:
            raise ValueError(f"{name}: got {count}, expected at least 1.")

    first_call, calls = {}, {}
    for name, function in functions.items():
        first_call[name] = _time_calls(function, 1, clock)
        warm = [_time_calls(function, 1, clock) for _ in range(warm_up)]
        calls[name] = _calls_to_fill(min_seconds, warm[-1])

    samples: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions)
    start = clock()
    for _ in range(repeats):
        for name in order:
            samples[name].append(_time_calls(functions[name], calls[name], clock))
        order.reverse()
        if max_seconds is not None and clock() - start >= max_seconds:
            break
    return {
        name: Timing(tuple(samples[name]), calls[name], first_call[name])
        for name in functions
    }


_MOST_CALLS_PER_ROUND = 1000


def _calls_to_fill(seconds: float, seconds_per_call: float) -> int:
    if seconds_per_call * _MOST_CALLS_PER_ROUND <= seconds:
        return _MOST_CALLS_PER_ROUND
    return max(math.ceil(seconds / seconds_per_call), 1)


def _time_calls(
    function: Callable[[], Any], calls: int, clock: Callable[[], float]
) -> float:
    start = clock()
    for _ in range(calls):
        jax.block_until_ready(function())
    return (clock() - start) / calls
