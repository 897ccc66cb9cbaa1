"""The formats: a module for each, or for a few of a kind, with `FORMATS`."""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
import pkgutil
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fuzzing.mutations import Mutation

GIBIBYTE = 2**30


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of files.

    Attributes:
      name: Its name, for the command line and the record.
      make: Writes a good example into an empty directory: a file, or several.
      read: Reads what is in the directory, as a user would; returns anything.
      structured: Pattern of names (as `Path.match` has them) -> mutations that know the
        structure of such files. Files of which no pattern is true are mutated as bytes.
        The first pattern that fits counts.
      mutated: Patterns of the names of the files that are mutated.
      finish: Called with the directory after a mutation, such as to sign a manifest
        anew.
      needs: Modules without which the format cannot be read here.
      allowed_imports: Packages that a library imports when it meets a damaged file.
      max_bytes: More memory than this for one file, beyond what the process has before,
        is a failure.
    """

    name: str
    make: Callable[[pathlib.Path], None]
    read: Callable[[pathlib.Path], Any]
    structured: Mapping[str, Sequence[Mutation]] = dataclasses.field(
        default_factory=dict
    )
    mutated: Sequence[str] = ("*",)
    finish: Callable[[pathlib.Path, random.Random], None] | None = None
    needs: Sequence[str] = ()
    allowed_imports: Sequence[str] = ()
    max_bytes: int = GIBIBYTE

    def mutations_of(self, path: pathlib.Path) -> Sequence[Mutation]:
        """Returns the structured mutations of a file."""
        for pattern, found in self.structured.items():
            if path.match(pattern):
                return found
        return ()

    def files(self, directory: pathlib.Path) -> list[pathlib.Path]:
        """Returns the files of an example that are mutated, in order."""
        return sorted(
            path
            for path in directory.rglob("*")
            if path.is_file() and any(map(path.match, self.mutated))
        )


def all_formats() -> dict[str, Format]:
    """Returns name -> format of every module here."""
    found: dict[str, Format] = {}
    for module in pkgutil.iter_modules(__path__):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        for each in loaded.FORMATS:
            if each.name in found:
                raise ValueError(f"two formats are called {each.name}")
            found[each.name] = each
    return found


def load_format(name: str) -> Format:
    """Returns a format by its name, or by `MODULE:ATTRIBUTE` of one that is not here.

    Raises:
      ValueError: If there is none.
    """
    module, colon, attribute = name.partition(":")
    if colon:
        found: Format = getattr(importlib.import_module(module), attribute)
        return found
    formats = all_formats()
    if name not in formats:
        raise ValueError(f"format: got {name!r}, expected one of {', '.join(formats)}.")
    return formats[name]
