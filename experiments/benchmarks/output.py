"""Output of the benchmarks: tables in the terminal, JSON and Markdown."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from cnn_jax.files import json_value, write_output
from cnn_jax.messages import console, say, warn
from cnn_jax.report.environment import command_line, describe_environment
from cnn_jax.report.table import Table, print_table, to_markdown
from cnn_jax.report.words import duration


class Steps:
    """Says on standard error which step of how many begins, and about the time left.

    Args:
      number: How many there are; they are taken to cost the same.
    """

    def __init__(self, number: int):
        self._number, self._begun = number, 0
        self._started = time.monotonic()

    def begin(self, what: str) -> None:
        """Prints the line of the next step."""
        elapsed = time.monotonic() - self._started
        left = ""
        if self._begun:
            rest = elapsed / self._begun * (self._number - self._begun)
            left = f", about {duration(rest)} left"
        self._begun += 1
        line = f"[{self._begun}/{self._number}] {what}{left}"
        warn(line)


def print_tables(tables: Sequence[Table], *, as_markdown: bool) -> None:
    """Prints tables for a person, or in Markdown if requested or `rich` is missing."""
    for table in tables:
        if as_markdown:
            say(to_markdown(table))
            continue
        try:
            print_table(table, console(sys.stdout))
        except ImportError:  # a bare host; Markdown can be read as it is
            say(to_markdown(table))


def write_report(
    path: pathlib.Path, results: Sequence[Mapping[str, Any]], **facts: Any
) -> None:
    """Writes results with the command, the versions and the hardware beside them."""
    report = {
        "command": command_line(),
        "environment": dataclasses.asdict(describe_environment()),
        "platform": jax.default_backend(),
        **facts,
        "records": results,
    }
    write_output(path, json.dumps(json_value(report), indent=1) + "\n")
