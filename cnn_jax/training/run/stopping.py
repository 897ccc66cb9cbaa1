"""Stopping a run from outside: the first signal saves, the second ends.

A run that gets SIGTERM (what Cloud TPU, Slurm and Kubernetes send before they take a
machine away) or SIGINT (Ctrl-C) goes on to the next safe point, saves once and ends
with `STOPPED_EXIT_CODE`. Safe points are the end of every step, a wait for data, and
all of an evaluation, which is done again when the run is resumed. Several processes
must stop at the same step: they agree at logging steps, whichever of them got the
signal. A program that is being compiled is compiled first.

A second signal ends the process at once, with 128 plus the signal's number.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax
import numpy as np

from cnn_jax.program import SIGNALS, STOPPED_EXIT_CODE, is_interactive

__all__ = [
    "STOPPED_EXIT_CODE",
    "RunStoppedError",
    "StopNow",
    "StopSignals",
    "is_interactive",
]


class RunStoppedError(Exception):
    """A signal stopped the run, which is saved.

    Attributes:
      step: The steps that were finished.
    """

    def __init__(self, name: str, step: int, num_steps: int, run_dir: str):
        super().__init__(
            f"{name}: stopped and saved at step {step} of {num_steps}. Continue the "
            f"run in {run_dir} with --resume."
        )
        self.step = step


class StopNow(BaseException):
    """Unwinds the loop from a safe point; no handler of errors is to catch it."""


class StopSignals:
    """Listens for the signals while it is entered.

    In another than the main thread, where Python lets nobody listen, it hears nothing.
    Without a run directory there is nothing to save: signals do what they do, but for
    SIGINT in an interactive session, which ends the run with its result so far.

    Args:
      is_interactive: Whether a second signal is a `KeyboardInterrupt` rather than the
        end of the process, which is then a notebook's.
      has_directory: Whether the run is saved.
    """

    def __init__(
        self, *, is_interactive: bool = False, has_directory: bool = True
    ) -> None:
        self._received: list[int] = []
        self._may_raise = False
        self._is_interactive = is_interactive
        self._listener: threading.Thread | None = None
        self._announcement = (
            "saving at the next safe point, then ending. Once more ends at once.\n"
            if has_directory
            else "ending at the next safe point, with the result so far.\n"
        )
        self._signals: tuple[signal.Signals, ...] = SIGNALS
        if not has_directory:
            self._signals = (signal.SIGINT,) if is_interactive else ()

    @property
    def name(self) -> str:
        """The signal that came, or of several processes, to one of them."""
        number = self._received[0] if self._received else signal.SIGTERM
        return signal.Signals(number).name

    def __enter__(self) -> StopSignals:
        is_main_thread = threading.current_thread() is threading.main_thread()
        if not is_main_thread or not self._signals:
            return self
        # Python runs a handler between two of its instructions, which a compilation
        # keeps waiting for minutes; the wake-up descriptor is written to at once, and a
        # thread of its own hears it.
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._previous_writer = signal.set_wakeup_fd(self._writer)
        self._previous = {
            number: signal.signal(number, self._handle) for number in self._signals
        }
        self._listener = threading.Thread(
            target=self._listen, args=(reader,), name="stop-signals", daemon=True
        )
        self._listener.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.dismiss()

    def dismiss(self) -> None:
        """Forgets what came, and lets signals do what they did before."""
        self._received.clear()
        if self._listener is None:
            return
        for number, handler in self._previous.items():
            # None stands for one that was not set from Python and cannot be set back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._previous_writer)
        os.close(self._writer)
        self._listener.join()
        self._listener = None

    def check(self) -> None:
        """Raises `StopNow` if a signal came; for one process."""
        if self._received and jax.process_count() == 1:
            raise StopNow

    def check_together(self) -> None:
        """Raises `StopNow` in every process if a signal came to any of them."""
        self.check()
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            mine = np.asarray(bool(self._received))
            if np.any(multihost_utils.process_allgather(mine)):
                raise StopNow

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Lets a signal interrupt what is done inside, wherever that is.

        Only for what may be left half done. In one of several processes nothing is
        interrupted: the others would wait for it.
        """
        self._may_raise = jax.process_count() == 1
        try:
            # Behind the line above, so that no signal falls between the two.
            self.check()
            yield
        finally:
            self._may_raise = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received and self._is_interactive:
            raise KeyboardInterrupt
        self._received.append(number)
        if self._may_raise:
            self._may_raise = False
            raise StopNow

    def _listen(self, reader: int) -> None:
        heard = 0
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            while written := pipe.read(1):
                if written[0] not in self._signals:
                    continue
                heard += 1
                if heard > 1 and not self._is_interactive:
                    os._exit(128 + written[0])
                if heard == 1:
                    _write_to_stderr(
                        f"{signal.Signals(written[0]).name}: {self._announcement}"
                    )


def _write_to_stderr(text: str) -> None:
    # Not through sys.stderr, whose lock the interrupted thread may hold.
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
