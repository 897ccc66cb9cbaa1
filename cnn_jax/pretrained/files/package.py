"""Weight files inside installed Python packages, found without importing these."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.metadata
import os
import pathlib
import re
from collections.abc import Collection
from typing import TypeGuard

PREFIX = "package:"


def is_name(source: object) -> TypeGuard[str]:
    """Returns whether weights are named as a package's."""
    return isinstance(source, str) and source.startswith(PREFIX)


def find(name: str, suffixes: Collection[str]) -> pathlib.Path:
    """Returns the one weight file of an installed package.

    The package is looked up on `sys.path`, and neither imported nor run.

    Args:
      name: `package:NAME`, NAME as in `import NAME`; dashes count as underscores.
      suffixes: What the names of weight files end in.

    Raises:
      FileNotFoundError: If no such package is installed, or it has no weight file.
      ValueError: If the name is no such name, the package has several such files, or is
        a namespace package.
    """
    files = [path for path in _files(name) if path.suffix in suffixes]
    if not files:
        raise FileNotFoundError(
            f"{name}: got a package without weights, expected one file in it that ends "
            f"in one of {', '.join(suffixes)}."
        )
    if len(files) > 1:
        shown = ", ".join(map(str, files[:3])) + (", ..." if len(files) > 3 else "")
        raise ValueError(
            f"{name}: got {len(files)} files of weights ({shown}), expected one; pass "
            "the path of one of them."
        )
    return files[0]


def version(name: str) -> str | None:
    """Returns the version of the distribution that is called as its package, if any.

    Args:
      name: `package:NAME`.
    """
    try:
        return importlib.metadata.version(import_name(name))
    except importlib.metadata.PackageNotFoundError:
        return None


def import_name(name: str) -> str:
    """Returns the name that `import` takes.

    Args:
      name: `package:NAME`.

    Raises:
      ValueError: If it is no such name.
    """
    match = re.fullmatch(rf"{PREFIX}([A-Za-z_][\w-]*)", name, re.ASCII)
    if match is None:
        raise ValueError(
            f"got {name!r}, expected package:NAME, NAME as in `import NAME`."
        )
    return match[1].replace("-", "_")


def _files(name: str) -> list[pathlib.Path]:
    """Returns the files in a package, at any depth, in the order of their paths."""
    importlib.invalidate_caches()  # it may have been installed a moment ago
    spec = importlib.machinery.PathFinder.find_spec(import_name(name))
    if spec is None:
        raise FileNotFoundError(f"{name}: {_not_installed(import_name(name))}")
    if spec.submodule_search_locations is None:
        return []  # a module in one file
    if spec.origin is None:
        raise ValueError(
            f"{name}: got a namespace package (directories without __init__.py, which "
            "several distributions may share), expected a regular one; pass the path "
            "of the file."
        )
    return sorted(
        path
        for root, _, names in os.walk(pathlib.Path(spec.origin).parent)
        for path in (pathlib.Path(root, each) for each in names)
        if path.is_file()
    )


def _not_installed(top_level: str) -> str:
    """Returns the sentence about a name that no package has."""
    try:
        distribution = importlib.metadata.distribution(top_level)
    except importlib.metadata.PackageNotFoundError:
        return (
            "got no installed package of that name, expected one; pip install it into "
            "this Python, or pass the path of a file."
        )
    names = (distribution.read_text("top_level.txt") or "").split()
    expected = " or ".join(PREFIX + each for each in names)
    return (
        "got the name of a distribution, expected that of its package, "
        f"{expected or 'as `import` takes it'}."
    )
