"""Progress of a study: a bar for a terminal, a line per run, and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import rich.console
import rich.progress

from cnn_jax import messages
from cnn_jax.report.words import duration


class PlannedRun(NamedTuple):
    """A run to come.

    Attributes:
      label: What it is called.
      kind: Runs of one kind take equally long.
      cost: What it costs beside other kinds, in any unit: the estimate until a run of
        its kind has been timed.
    """

    label: str
    kind: str
    cost: float


class RunProgress:
    """Shows the current run, their number, and an estimate of the time left.

    A run is taken to cost what was planned, until one of its kind has been timed. What
    a kind's first run does once, which is compiling, has a time of its own: as long as
    for other kinds, whatever they cost. A terminal gets a bar, and everything a line
    per run.

    Args:
      runs: All runs, in the order in which they will begin.
    """

    def __init__(self, runs: Sequence[PlannedRun]):
        self._waiting = list(runs)
        self._num_runs = len(runs)
        self._seconds: dict[str, float] = {}
        self._spent = self._spent_cost = 0.0
        self._compile_seconds: dict[str, float] = {}
        console = messages.console(sys.stderr)
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.file.isatty(),
            transient=True,
        )
        total = sum(run.cost for run in runs)
        self._task = self._bar.add_task("", total=total, left="")

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def begin(self) -> None:
        """Starts the clock of the next run."""
        self._started = time.perf_counter()
        self._compiling = 0.0
        number = self._num_runs - len(self._waiting) + 1
        place = f"{number:{len(str(self._num_runs))}}/{self._num_runs}"
        self._head = f"[{place}] {self._waiting[0].label}"
        self.show(0.0)

    def compiled(self, seconds: float | None = None) -> None:
        """Sets how long the current run took for what its kind does only once.

        Args:
          seconds: How long; None for all the time since it began.
        """
        if seconds is None:
            seconds = time.perf_counter() - self._started
        self._compiling = seconds
        self._compile_seconds[self._waiting[0].kind] = self._compiling

    def show(self, share: float) -> None:
        """Brings the bar to `share` of the current run."""
        left = self._left(share)
        rest = sum(run.cost for run in self._waiting[1:])
        rest += self._waiting[0].cost * (1 - share)
        total = self._bar.tasks[self._task].total
        assert total is not None  # set with the task
        self._bar.update(
            self._task,
            description=messages.printable(self._head),
            completed=total - rest,
            left="" if left is None else f"about {duration(left)} left",
        )

    def end(self, outcome: str, *, is_kept: bool = False) -> None:
        """Stops the clock of a run and prints its line.

        Args:
          outcome: What it found.
          is_kept: Whether that was found before: its time is then not used.
        """
        run = self._waiting.pop(0)
        whole = time.perf_counter() - self._started
        seconds = whole - self._compiling
        if is_kept:
            self._say(f"{self._head}: {outcome}, kept")
            return
        self._spent += seconds
        self._spent_cost += run.cost
        self._seconds[run.kind] = min(seconds, self._seconds.get(run.kind, seconds))
        left = self._left(0.0)
        text = ""
        if self._waiting and left is not None:
            text = f"; about {duration(left)} left"
        self._say(f"{self._head}: {outcome}, {duration(whole)}{text}")

    def _say(self, text: str) -> None:
        self._bar.update(self._task, left="")
        # Standard output, below which a bar on standard error draws itself again.
        self._bar.stop()
        messages.say(text)
        if self._waiting:
            self._bar.start()

    def _left(self, share: float) -> float | None:
        """Returns the seconds left after `share` of the current run, if known."""
        spent, cost = self._spent, self._spent_cost
        if share:
            spent += time.perf_counter() - self._started - self._compiling
            cost += share * self._waiting[0].cost
        if not cost:
            return None
        times = [
            self._seconds.get(run.kind, run.cost * spent / cost)
            for run in self._waiting
        ]
        left = sum(times) - share * times[0] if times else 0.0
        return left + self._compile_left()

    def _compile_left(self) -> float:
        """Returns the seconds that kinds not timed yet will take to compile."""
        known = self._compile_seconds
        if not known:
            return 0.0
        new = {run.kind for run in self._waiting} - self._seconds.keys() - known.keys()
        return len(new) * sum(known.values()) / len(known)
