"""Messages to the person at the terminal, which a run never depends on.

Standard output may be a pipe whose reader has gone, or a full disk. A run that says
something goes on all the same; and a name out of a file cannot command the terminal.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:  # a bare host may lack it, and it takes time to import
    import rich.console
    import rich.progress


def printable(text: str, *, keep: str = "") -> str:
    r"""Returns a text with every character that is not printable escaped.

    A terminal's escape sequences, marks that reverse the direction of writing, and what
    stands for bytes that are no UTF-8 all become `\x1b`, `\u202e` or `\udcff`.

    Args:
      text: Any text.
      keep: Characters that stay, such as `"\n"`.
    """
    return "".join(
        each
        if each.isprintable() or each in keep
        else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


def say(text: str) -> None:
    """Prints a message on standard output, escaped, at once.

    If it cannot be written, standard output is given up for the rest of the process,
    and standard error says so.
    """
    problem = _write(sys.stdout, text)
    if problem is not None:
        warn(_GIVEN_UP.format(problem))


def warn(text: str) -> None:
    """Prints a message on standard error, escaped, at once; or drops it."""
    _write(sys.stderr, text)


class Steady:
    """A stream for a library to print on, as `say` and `warn` print.

    What it cannot write is dropped. Nothing is escaped: a table's or a bar's own
    sequences are meant, and what is in it was escaped before.

    Args:
      stream: `sys.stdout` or `sys.stderr`; None for a process without.
    """

    def __init__(self, stream: TextIO | None):
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes a text, or nothing any more."""
        self._print(text)
        return len(text)

    def flush(self) -> None:
        """Hands over what was written."""
        self._print("")

    def isatty(self) -> bool:
        """Returns whether a terminal shows it."""
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:  # it is closed
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _print(self, text: str) -> None:
        problem = _print(self._stream, text)
        if problem is not None and self._stream is sys.stdout:
            warn(_GIVEN_UP.format(problem))


def settle() -> None:
    """Hands over what the standard streams hold, or drops it.

    Otherwise Python does so at its exit, and what then fails makes the status 120.
    """
    for stream in (sys.stdout, sys.stderr):
        _print(stream, "")


def console(stream: TextIO | None) -> rich.console.Console:
    """Returns what prints tables and progress on a stream as `Steady` does.

    Args:
      stream: `sys.stdout` or `sys.stderr`; None for a process without.
    """
    import rich.console

    steady: Any = Steady(stream)
    return rich.console.Console(file=steady, highlight=False)


def progress(*, shown: bool = True, transient: bool = False) -> rich.progress.Progress:
    """Returns what shows bars with the time left on standard error.

    Args:
      shown: Whether to, if it is a terminal or a notebook; nothing else gets a bar.
      transient: Whether they disappear at the end.
    """
    import rich.progress

    error = console(sys.stderr)
    can_show = error.is_jupyter or error.file.isatty()
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left"),
        rich.progress.TimeRemainingColumn(),
        console=error,
        disable=not (shown and can_show),
        transient=transient,
    )


_GIVEN_UP = "standard output cannot be written ({}); the run goes on."


def _write(stream: TextIO | None, text: str) -> str | None:
    """Writes a line; returns why it cannot be written."""
    return _print(stream, printable(text, keep="\n\t") + "\n")


def _print(stream: TextIO | None, text: str) -> str | None:
    """Writes a text at once; returns why it cannot be written."""
    if stream is None:  # a process that was started without
        return None
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        give_up(stream)
        return str(error)
    return None


def give_up(stream: TextIO) -> None:
    """Sends what a stream holds, and all that follows, to nowhere.

    What is left in its buffer would fail once more when Python flushes it at exit, with
    a message and status 120.
    """
    with contextlib.suppress(OSError, ValueError):
        descriptor = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        if nowhere != descriptor:
            os.close(nowhere)
