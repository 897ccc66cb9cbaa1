"""The process of a program: what its descriptors, signals and warnings do.

It imports the standard library alone, so that a program can begin with it, before what
takes seconds to import:

    from cnn_jax import program

    if __name__ == "__main__":
        program.begin()

    from cnn_jax.experiment import main

A signal that comes before a run can save ends the process with one sentence and the
status of a run to be started again, `STOPPED_EXIT_CODE`; what happens later decides
`cnn_jax.training.run.stopping`. In an interactive session signals stay Python's.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn, TypeVar

from cnn_jax import messages

T = TypeVar("T")

STOPPED_EXIT_CODE = 75
"""Of a run that a signal stopped and that the same command, perhaps with `--resume`,
starts again: `EX_TEMPFAIL` of sysexits.h, "try again later"."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)

LONGEST_CALL = 2.0
"""Seconds for which a signal waits for a library's call to return, such as that of the
compiler: Python runs a handler between two of its instructions."""

LONGEST_UNWINDING = 10.0
"""Seconds that the program has to end by itself once it knows of a signal."""


class Stopped(KeyboardInterrupt):
    """A signal has the program end.

    Attributes:
      number: The signal.
      sentence: What is to be said of it, see `signals_say`; None for what is said of a
        start.
    """

    def __init__(self, number: int, sentence: str | None = None):
        super().__init__(signal.Signals(number).name)
        self.number: int = number
        self.sentence = sentence


def begin() -> None:
    """Begins the process of a run: to be called before everything else is imported.

    Until `signals` is entered a signal ends the process at once. What it prints cannot
    end up in a file that took the number of a closed descriptor, and names in its
    warnings are escaped.
    """
    own_process()
    open_descriptors()
    if is_interactive():
        return
    warnings.formatwarning = _escaped_warnings(warnings.formatwarning)
    atexit.register(messages.settle)
    _BEGUN.append(_Listener(_STARTING, raises=False))
    _BEGUN[0].start()


def own_process() -> None:
    """Says that the process is this program's, so that `leaving` may end it.

    For what reads its options from the command line. Where another program, such as a
    test, calls this one as a function, the process stays that one's.
    """
    global _owns_process
    _owns_process = not is_interactive()


def leaving(status: int) -> int:
    """Returns the exit status of a program that a signal interrupted.

    The compiler and the devices go on with what the interrupted thread no longer waits
    for. Python's own end would free what they use, and the process would die of
    SIGSEGV. So a process that is the program's (`own_process`) leaves without that end
    when it exits: its worker processes are killed and its output is flushed.

    Args:
      status: What the program exits with.
    """
    if _owns_process:
        atexit.register(_leave, status)
    return status


def _leave(status: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    _kill_workers()
    os._exit(status)


def _kill_workers() -> None:
    # They would print that they lost their parent.
    workers = sys.modules.get("multiprocessing.process")
    for worker in [] if workers is None else workers.active_children():
        with contextlib.suppress(Exception):
            worker.kill()


def open_descriptors() -> None:
    """Opens descriptors 0, 1 and 2 on nothing, those of them that are closed.

    Otherwise the next file to be opened, maybe a checkpoint, takes the number of
    standard output or error, and whatever prints writes into it.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115


@contextlib.contextmanager
def signals(*, is_run: bool) -> Iterator[None]:
    """Has the first SIGTERM or SIGINT raise `Stopped` in the main thread.

    If that thread is in a library's call for longer than `LONGEST_CALL`, the process is
    ended; by a second signal it is ended at once. In an interactive session, and in
    another than the main thread, signals do what they did.

    Args:
      is_run: Whether what runs inside trains: which status and sentence it ends with.
    """
    if is_interactive() or threading.current_thread() is not threading.main_thread():
        yield
        return
    listener = _Listener(_STARTING if is_run else _COMMAND, raises=True)
    formatted = warnings.formatwarning
    warnings.formatwarning = _escaped_warnings(formatted)
    _LISTENING.append(listener)
    listener.start()
    try:
        yield
        listener.finish()
    except Stopped:
        raise
    except BaseException as error:
        # Python's import system and libraries make another error of it.
        listener.check(error)
        raise
    finally:
        warnings.formatwarning = formatted
        for each in _BEGUN:
            each.ignore_one()  # what is left is Python's own end
        listener.stop()
        _LISTENING.remove(listener)


def signals_say(text: str) -> None:
    """Has signals, from here on, say something else than that the program started.

    Once a run is over, it is not the same command that goes on. Outside `signals`
    nothing is said.

    Args:
      text: What follows the signal's name.
    """
    for listener in _LISTENING:
        listener.text = text


@contextlib.contextmanager
def starting_processes() -> Iterator[None]:
    """Has a signal wait until the block has started the processes that it starts.

    Of one that was started and not told what to do, as its parent ended, Python prints
    a traceback. Only the main thread enters it, once.
    """
    global _starts_processes
    with _STARTS_PROCESSES:
        _starts_processes = True
        try:
            yield
        finally:
            _starts_processes = False


def status_of(stopped: Stopped, *, is_run: bool) -> int:
    """Says that a signal ended the program; returns the exit status, see `leaving`."""
    ending = _STARTING if is_run else _COMMAND
    messages.warn(stopped.sentence or ending.sentence(stopped.number))
    return leaving(ending.status(stopped.number))


def parsed(parse: Callable[[], T], arguments: Sequence[str] | None = None) -> T:
    """Returns what a parser of the command line does, with its errors escaped.

    Args:
      parse: What exits with a message on standard error if an argument is invalid.
      arguments: The arguments; `sys.argv[1:]` when None.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if all(map(str.isprintable, arguments)):
        return parse()
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse()
    finally:
        if said.getvalue():
            messages.warn(said.getvalue().rstrip("\n"))


def is_interactive() -> bool:
    """Returns whether a person types into this process: in a notebook or a shell."""
    return hasattr(sys, "ps1") or "ipykernel" in sys.modules


class _Ending:
    """The sentence and the status with which a signal ends a program."""

    def __init__(self, text: str, status: Callable[[int], int]):
        self._text, self.status = text, status

    def sentence(self, number: int, text: str | None = None) -> str:
        return f"{signal.Signals(number).name}: {text or self._text}"


_STARTING = _Ending(
    "stopped before there was anything to save; the same command starts again.",
    lambda number: STOPPED_EXIT_CODE,
)
_COMMAND = _Ending("stopped before it was done.", lambda number: 128 + number)
_BEGUN: list[_Listener] = []
_LISTENING: list[_Listener] = []
_owns_process = False
_STARTS_PROCESSES = threading.Lock()
_starts_processes = False


class _Listener:
    """Hears the signals, in a thread of its own too, until `stop`."""

    def __init__(self, ending: _Ending, *, raises: bool):
        self._ending, self._raises = ending, raises
        self.text: str | None = None  # in place of the ending's
        self._heard: int | None = None
        self._raised: int | None = None
        self._is_deferred, self._repeated = False, 0
        self._ender: threading.Thread | None = None
        self._is_over = threading.Event()
        self._ignores_one = False
        self._previous: dict[int, Any] = {}

    def ignore_one(self) -> None:
        self._ignores_one = True

    def start(self) -> None:
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._previous_writer = signal.set_wakeup_fd(self._writer)
        for number in SIGNALS:
            # nohup and a shell's background jobs have a signal ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handle)
        self._thread = threading.Thread(
            target=self._listen, args=(reader,), name="signals", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        signal.set_wakeup_fd(self._previous_writer)
        os.close(self._writer)
        self._thread.join()
        if self._ender is not None:  # it may repeat the signal, which is heard here
            self._ender.join()
        for number, handler in self._previous.items():
            # None stands for one that was not set from Python and cannot be set back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def finish(self) -> None:
        """Raises `Stopped` if a signal came and nobody ended for it.

        A library may have swallowed what was raised, or the signal still waits.
        """
        if self._heard is not None:
            raise self._stopped(self._heard)

    def check(self, error: BaseException) -> None:
        """Raises `Stopped` from an error if a signal came before it."""
        if self._raised is not None:
            raise self._stopped(self._raised) from error

    def _stopped(self, number: int) -> Stopped:
        return Stopped(number, self._sentence(number))

    def _sentence(self, number: int) -> str:
        return self._ending.sentence(number, self.text)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_heard = self._raised is not None or self._is_over.is_set()
        if is_heard or not self._raises:
            return
        self._heard, self._is_deferred = number, _defers(frame)
        if not self._is_deferred:
            self._raised = number
            raise self._stopped(number)

    def _listen(self, reader: int) -> None:
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            while written := pipe.read(1):
                if written[0] in self._previous:
                    break
            else:
                return
            number = written[0]
            if self._raises:
                self._ender = threading.Thread(
                    target=self._end_in_time, args=(number,), daemon=True
                )
                self._ender.start()
            elif not self._ignores_one:
                self._end(number)
            while written := pipe.read(1):
                if written[0] not in self._previous:
                    continue
                if self._repeated:  # by `_end_in_time`
                    self._repeated -= 1
                else:
                    os._exit(128 + written[0])

    def _end_in_time(self, number: int) -> None:
        """Ends the process if the main thread does not."""
        deadline = time.monotonic() + LONGEST_CALL
        while self._raised is None and time.monotonic() < deadline:
            if self._is_over.wait(0.02):
                return
            if self._is_deferred and not _defers(_frame_of_main_thread()):
                self._is_deferred, self._repeated = False, self._repeated + 1
                signal.raise_signal(number)
        if self._raised is not None and self._is_over.wait(LONGEST_UNWINDING):
            return
        self._end(number)

    def _end(self, number: int) -> None:
        _STARTS_PROCESSES.acquire(timeout=LONGEST_UNWINDING)
        # Not through sys.stderr, whose lock the main thread may hold.
        with contextlib.suppress(OSError):
            os.write(2, f"{messages.printable(self._sentence(number))}\n".encode())
        _kill_workers()
        os._exit(self._ending.status(number))


def _defers(frame: FrameType | None) -> bool:
    """Returns whether a signal is to wait for what the main thread does.

    Libraries print what is raised while they are imported, or make another error of it.
    """
    if _starts_processes:
        return True
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _frame_of_main_thread() -> FrameType | None:
    return sys._current_frames().get(threading.main_thread().ident or 0)


def _escaped_warnings(formatted: Callable[..., str]) -> Callable[..., str]:
    def escaped(*arguments: Any, **named: Any) -> str:
        return messages.printable(formatted(*arguments, **named), keep="\n\t")

    return escaped
