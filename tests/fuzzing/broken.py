"""Formats whose readers do what they must not, to show that it is noticed."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import pickle
import time
from collections.abc import Callable

import numpy as np

from fuzzing.formats import Format

GOOD = b"good" * 16


def _make(directory: pathlib.Path) -> None:
    (directory / "file").write_bytes(GOOD)


def _format(name: str, misbehave: Callable[[pathlib.Path], object]) -> Format:
    def read(directory: pathlib.Path) -> None:
        try:
            content = (directory / "file").read_bytes()
        except OSError:
            return
        # The good one, and the damaged ones that are read before all others.
        if content == GOOD or content == GOOD[: len(GOOD) // 2] or not content:
            return
        misbehave(directory)

    return Format(name, _make, read)


def _raise(error: Exception) -> None:
    raise error


def _take_memory(directory: pathlib.Path) -> None:
    np.ones(12 * 2**20)  # 96 MiB


def _ask_for_memory(directory: pathlib.Path) -> None:
    try:
        np.empty(2**33)
    except MemoryError as error:
        raise ValueError(f"{directory}: got a damaged file.") from error


TYPE_ERROR = _format("type error", lambda path: _raise(TypeError(f"{path}")))
NO_PATH = _format("no path", lambda path: _raise(ValueError("damaged")))
HANG = _format("hang", lambda path: time.sleep(100))
EXIT = _format("exit", lambda path: os._exit(7))
# A lower limit than others: where memory is short, a gibibyte takes a minute.
MEMORY = dataclasses.replace(_format("memory", _take_memory), max_bytes=64 * 2**20)
CLAIM = _format("claim", _ask_for_memory)
WRITES = _format("writes", lambda path: (path.parent.parent / "new").write_bytes(b""))
IMPORTS = _format("imports", lambda path: __import__("this"))
COMMAND = _format("command", lambda path: os.system("true"))
UNPICKLES = _format("unpickles", lambda path: pickle.loads(pickle.dumps(pathlib.Path)))
REFUSES = _format("refuses", lambda path: _raise(ValueError(f"{path}: damaged")))
