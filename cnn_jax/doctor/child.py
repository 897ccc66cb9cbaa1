"""A process for what may hang or abort, which answers line by line.

A device may hang while it is initialised, and a compiler may abort. The process of
`cnn_jax.doctor.inside` says what it begins, and what it found: so what ended it has a
name, and what it found before is kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import IO, Any

_GRACE = 10.0
"""Seconds that the process has to end by itself, before it is killed."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """The words of the process.

    Attributes:
      found: The result of each stage that it finished.
      unfinished: The stage that it did not; None if it finished all.
      problem: Why not: that it took too long, or how the process ended.
      errors: The end of what it wrote to standard error.
      is_late: Whether it took too long.
    """

    found: dict[str, Any]
    unfinished: str | None
    problem: str
    errors: str
    is_late: bool = False


def ask(task: Mapping[str, Any], seconds: float) -> Answer:
    """Runs the stages of a task in another process.

    Args:
      task: Arguments of `inside.main`, for JSON.
      seconds: How long they may take together.

    Returns:
      What it answered, finished or not.
    """
    reader, writer = os.pipe()
    with _scratch() as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cnn_jax.doctor.inside", str(writer)],
            stdin=subprocess.PIPE,
            stdout=errors,
            stderr=errors,
            pass_fds=(writer,),
            env=_environment(),
            start_new_session=True,
        )
        os.close(writer)
        is_late = False
        try:
            assert process.stdin is not None  # it is a pipe
            process.stdin.write(json.dumps({**task, "seconds": seconds}).encode())
            process.stdin.close()
            text, is_late = _read(reader, seconds)
            if not is_late:
                is_late = _ends_late(process)
        except BrokenPipeError:  # it ended before it was told what to do
            text = b""
        finally:
            os.close(reader)
            _kill(process)
        errors.seek(0)
        said = errors.read()[-4000:].decode(errors="replace")
    return _answer(text, said, process.returncode, seconds if is_late else None)


def _scratch() -> IO[bytes]:
    """Opens a file in memory where the system has them: no disk need be writable."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("doctor"), "w+b")
    return tempfile.TemporaryFile()


def _environment() -> dict[str, str]:
    """Returns this process's, with this package where the other looks for packages.

    Compiled programs are not kept: nothing that is written stays.
    """
    paths = [str(pathlib.Path(__file__).parents[2])]
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }


def _read(reader: int, seconds: float) -> tuple[bytes, bool]:
    """Returns all that comes, and whether it took too long."""
    deadline, text = time.monotonic() + seconds, b""
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([reader], [], [], left)
        if not ready:
            break
        piece = os.read(reader, 65536)
        if not piece:
            return text, False
        text += piece
    return text, True


def _ends_late(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(timeout=_GRACE)
    except subprocess.TimeoutExpired:
        return True
    return False


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        # What a driver keeps, the system ends when it can.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_GRACE)


def _answer(
    text: bytes, errors: str, status: int | None, late_after: float | None
) -> Answer:
    found: dict[str, Any] = {}
    begun: str | None = "start"
    for line in text.splitlines():
        try:
            kind, stage, result = json.loads(line)
        except ValueError:  # cut off
            break
        if kind == "begin":
            begun = stage
        else:
            found[stage], begun = result, None
    if "end" in found:
        return Answer(found, None, "", errors)
    if late_after is not None:
        problem = f"it did not answer within {late_after:.0f} s"
    elif status is not None and status < 0:
        problem = f"its process was ended by {signal.Signals(-status).name}"
    else:
        problem = f"its process ended with status {status}"
    return Answer(found, begun or "end", problem, errors, late_after is not None)
