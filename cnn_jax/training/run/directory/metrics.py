"""The lines of `metrics.jsonl` up to a checkpoint, checked against what that knows.

A checkpoint knows how many lines were written before it, a hash of them, and every
epoch's numbers. So what is damaged or missing is noticed; of such a file every sound
line is kept, and the epochs' are made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from cnn_jax.files import json_value, open_regular

MAX_LINE_BYTES = 2**20
"""The longest line that is read: more than any that a run writes."""


@dataclasses.dataclass(frozen=True)
class Written:
    """The lines that were written into the file before a checkpoint.

    Attributes:
      lines: The number of lines.
      size: Their bytes.
      sha256: The hash of these.
    """

    lines: int
    size: int
    sha256: str

    @classmethod
    def read(cls, saved: Any) -> Written | None:
        """Returns what a checkpoint says; None for one that was made before it did."""
        if not isinstance(saved, Mapping) or saved.keys() != _WRITTEN.keys():
            return None
        if any(type(saved[name]) is not kind for name, kind in _WRITTEN.items()):
            return None
        return cls(**saved)


_WRITTEN = {"lines": int, "size": int, "sha256": str}


@dataclasses.dataclass(frozen=True)
class Lines:
    """The lines that a resumed run begins with.

    Attributes:
      content: The lines.
      problem: What is wrong with the file that they are from; None for nothing.
    """

    content: bytes
    problem: str | None = None


def line_of(event: str, values: Mapping[str, Any]) -> bytes:
    """Returns the line of an event."""
    return json.dumps({"event": event, **json_value(values)}).encode() + b"\n"


def lines_up_to(
    path: pathlib.Path,
    step: int,
    history: Sequence[Mapping[str, Any]] | None,
    *,
    epoch: int,
    written: Written | None = None,
    changes: Iterable[Mapping[str, Any]] = (),
) -> Lines:
    """Returns the lines up to a checkpoint.

    Args:
      path: The file; it may be missing.
      step: The checkpoint's.
      history: The numbers of each epoch before it, as its line has them; None if only
        their number is known.
      epoch: The number of epochs before it.
      written: What was written by then; None if the checkpoint does not say.
      changes: The values of the lines about a changed environment before it.

    Raises:
      FileError: If it is no regular file.
      OSError: If it cannot be read.
    """
    try:
        file = open_regular(path)
    except FileNotFoundError:
        found = _Sound()
        is_missing = True
    else:
        is_missing = False
        with file:
            if written is not None:
                content = _beginning(file, written)
                if content is not None:
                    return Lines(content)
                file.seek(0)
            found = _sound_lines(file, step, epoch)
    as_found = b"".join(line for _, line in found.lines)
    if written is not None and hashlib.sha256(as_found).hexdigest() == written.sha256:
        return Lines(as_found)  # an editor has changed the ends of lines, say
    expected = found.epochs if history is None else _epochs(history)
    is_as_known = found.epochs == expected and not found.is_interrupted
    if written is None and not is_missing and is_as_known:
        return Lines(as_found)
    events = [*expected.values(), *(("environment", change) for change in changes)]
    lines = [line for line in found.lines if line[0]["event"] == "step"]
    lines += [(json.loads(line_of(*event)), line_of(*event)) for event in events]
    kinds = ("step", "epoch", "environment")
    lines.sort(key=lambda line: (line[0]["step"], kinds.index(line[0]["event"])))
    if is_missing and not lines and (written is None or not written.lines):
        return Lines(b"")
    problem = "is missing" if is_missing else "is not as the run wrote it"
    total = "" if written is None else f" of {written.lines}"
    made = len(expected) if history is not None else 0
    again = f", those of {made} epochs out of the checkpoint" if made else ""
    return Lines(
        b"".join(line for _, line in lines),
        f"{problem}; {len(lines)}{total} lines up to step {step} are there now{again}",
    )


def most_recent(path: pathlib.Path) -> dict[str, int]:
    """Returns the highest step and epoch of the file's sound lines, 0 for none."""
    found = {"step": 0, "epoch": 0}
    with contextlib.suppress(FileNotFoundError), open_regular(path) as file:
        while line := file.readline(MAX_LINE_BYTES):
            entry = _parsed(line)
            for name in found:
                if entry is not None and type(entry.get(name)) is int:
                    found[name] = max(found[name], entry[name])
    return found


@dataclasses.dataclass
class _Sound:
    """The sound lines of a file up to a step.

    `epochs` are those of epochs, by their number, and `is_interrupted` says whether
    there is anything else before the last of all.
    """

    lines: list[tuple[dict[str, Any], bytes]] = dataclasses.field(default_factory=list)
    epochs: dict[int, tuple[str, Mapping[str, Any]]] = dataclasses.field(
        default_factory=dict
    )
    is_interrupted: bool = False


def _beginning(file: IO[bytes], written: Written) -> bytes | None:
    """Returns what was written, if the file begins with it."""
    content = file.read(max(written.size, 0))
    if hashlib.sha256(content).hexdigest() != written.sha256:
        return None
    return content if content.count(b"\n") == written.lines else None


def _sound_lines(file: IO[bytes], step: int, epoch: int) -> _Sound:
    found, unsound, seen = _Sound(), False, set()
    while line := file.readline(MAX_LINE_BYTES):
        entry = _parsed(line)
        if entry is None:
            unsound = True
            continue
        kind = entry["event"]
        number = entry["epoch"] if kind == "epoch" else entry["step"]
        if entry["step"] > step or (kind == "epoch" and number > epoch):
            continue
        if (kind, number) in seen and kind != "environment":
            continue
        seen.add((kind, number))
        found.is_interrupted |= unsound
        # From bytes, since the parser then knows what a byte-order mark is.
        text = line.decode("utf-8-sig").strip()
        found.lines.append((entry, text.encode() + b"\n"))
        if kind == "epoch":
            values = {name: entry[name] for name in entry if name != "event"}
            found.epochs[number] = (kind, values)
    return found


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Returns what a line says; None if no run can have written it."""
    try:
        entry = json.loads(line.decode("utf-8-sig"))
        is_sound = (
            type(entry["step"]) is int
            and entry["step"] >= 0
            and (
                entry["event"] == "environment"
                or (
                    entry["event"] in ("step", "epoch")
                    and type(entry["epoch"]) is int
                    and all(
                        value is None or isinstance(value, bool | int | float | str)
                        for value in entry.values()
                    )
                )
            )
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return entry if is_sound else None


def _epochs(
    history: Sequence[Mapping[str, Any]],
) -> dict[int, tuple[str, Mapping[str, Any]]]:
    return {
        number: ("epoch", json_value(values))
        for number, values in enumerate(history, start=1)
    }
