"""The result of one check: a verdict, a sentence and what to do."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any, Literal, TypeVar

T = TypeVar("T")

Verdict = Literal["ok", "warning", "fault"]
"""`"fault"`: a run fails or is wrong. `"warning"`: it works, or may, and can be
better."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
      name: What was looked at.
      verdict: The judgement.
      sentence: What there is, with its figures.
      remedy: What to do about it; empty if there is nothing to do.
    """

    name: str
    verdict: Verdict
    sentence: str
    remedy: str = ""


def ok(name: str, sentence: str) -> Finding:
    """Returns a finding that asks for nothing."""
    return Finding(name, "ok", sentence)


def warning(name: str, sentence: str, remedy: str) -> Finding:
    """Returns a finding with which runs work."""
    return Finding(name, "warning", sentence, remedy)


def fault(name: str, sentence: str, remedy: str) -> Finding:
    """Returns a finding with which runs fail, or are wrong."""
    return Finding(name, "fault", sentence, remedy)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Returns `1 core`, `2 cores`, `1,797 classes`.

    Args:
      number: How many.
      noun: What, in the singular.
      plural: In the plural; None for the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


class TookTooLongError(TimeoutError):
    """A check did not return in its time."""


def within(seconds: float, function: Callable[[], T]) -> T:
    """Returns what a function does, if it returns in time.

    It runs in a thread that the process does not wait for: a file system that hangs
    holds nobody else up.

    Args:
      seconds: How long it may take.
      function: What is called.

    Raises:
      TookTooLongError: If it takes longer. What it raises itself goes on.
    """
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["result"] = function()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, name="check", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TookTooLongError(f"no answer within {seconds:.0f} s")
    if "error" in outcome:
        raise outcome["error"]
    result: T = outcome["result"]
    return result
