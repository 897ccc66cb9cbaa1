"""What the commands share: usage errors, the parser, and how things look in print."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

from cnn_jax.report.table import json_value


class UsageError(ValueError):
    """A command that cannot be meant; its message is for the person who typed it."""


class Parser(argparse.ArgumentParser):
    """A parser that reports mistakes as `main` reports all others."""

    def error(self, message: str) -> NoReturn:
        """Raises what `main` reports."""
        raise UsageError(f"{message}. See {self.prog} --help.")


def nearest(name: str, known: Iterable[str]) -> str:
    """Asks whether the nearest names were meant; empty if none is near."""
    found = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, found))}?" if found else ""


def listed(names: Iterable[str]) -> str:
    """Returns the end of a sentence that lists names."""
    return ", ".join(names) + "."


def shape_text(shape: Iterable[int]) -> str:
    """Returns `32 x 32 x 3`."""
    return " x ".join(map(str, shape))


def print_json(content: Any) -> None:
    """Prints JSON; what it does not know (NaN, infinities) as null."""
    print(json.dumps(json_value(content), indent=2))


def with_progress(names: Sequence[str]) -> Iterator[str]:
    """Yields the names, with a bar on standard error if that is a terminal."""
    import rich.console
    import rich.progress

    with rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left"),
        rich.progress.TimeRemainingColumn(),
        console=rich.console.Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as progress:
        task = progress.add_task("", total=len(names))
        for name in names:
            progress.update(task, description=name)
            yield name
            progress.advance(task)
