"""Python and packages, against what this package requires of them."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from collections.abc import Iterator

from cnn_jax.doctor.finding import Finding, fault, ok, warning

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain"),
    *("chex", "tensorflow-datasets"),
)
"""The packages of which each version stands in the report."""

PLUGINS = (
    *("libtpu", "jax-cuda13-plugin", "jax-cuda13-pjrt"),
    *("jax-cuda12-plugin", "jax-cuda12-pjrt"),
)
"""The packages by which jax uses an accelerator, where they are installed."""


def installed(name: str) -> str | None:
    """Returns a package's version; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def all_versions() -> dict[str, str]:
    """Returns the versions that all processes of a run must have in common."""
    names = ("cnn_jax", *PACKAGES, *PLUGINS)
    found = {name: installed(name) for name in names}
    versions = {name: version for name, version in found.items() if version}
    return {"python": platform.python_version(), **versions}


def requirements() -> dict[str, str]:
    """Returns package -> the versions that this package requires, such as `>=2.0`.

    They are those of its metadata, which setup.cfg becomes; empty where it was not
    installed. Extras are left out.
    """
    try:
        lines = importlib.metadata.requires("cnn_jax") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found = {}
    for line in lines:
        match = re.fullmatch(r"([\w.-]+)\s*\(?([^;)]*)\)?\s*", line)
        if match:  # else it has a condition, such as an extra
            found[match[1].lower().replace("_", "-")] = match[2].replace(" ", "")
    return found


def satisfies(version: str, expected: str) -> bool:
    """Returns whether a version is in a range such as `>=0.12,<1`."""
    compare = {
        ">=": lambda a, b: a >= b,
        "<=": lambda a, b: a <= b,
        "==": lambda a, b: a == b,
        "!=": lambda a, b: a != b,
        ">": lambda a, b: a > b,
        "<": lambda a, b: a < b,
    }
    for part in filter(None, expected.split(",")):
        match = re.fullmatch(r"(>=|<=|==|!=|>|<)(.+)", part)
        if match and not compare[match[1]](_numbers(version), _numbers(match[2])):
            return False
    return True


def check_python() -> Finding:
    """Checks this interpreter's version."""
    version = platform.python_version()
    expected = _python_required()
    what = f"{platform.python_implementation()} {version} on {platform.system()}"
    if not satisfies(version, expected):
        return fault(
            "Python", f"{what}, expected {expected}.", "Install a newer Python."
        )
    if sys.version_info < (3, 12):
        return warning(
            "Python",
            f"{what}: its last jax is 0.10.2, which has faults on a CPU (below).",
            "Use Python 3.12 or newer, which gets a newer jax.",
        )
    return ok("Python", f"{what}, {expected} is required.")


def check_packages() -> Iterator[Finding]:
    """Yields a finding for each package that is required."""
    required = requirements()
    if not required:
        yield warning(
            "packages",
            "cnn_jax is imported from a directory and not installed, so nobody knows "
            "which versions it requires.",
            "Run `python -m pip install -e .` in its directory.",
        )
    for name in dict.fromkeys((*PACKAGES, *required)):
        yield _check_package(name, required.get(name, ""))


def check_jaxlib() -> Finding:
    """Checks that what belongs to jax is of jax's version."""
    jax = installed("jax")
    others = {name: installed(name) for name in ("jaxlib", *PLUGINS)}
    wrong = [
        f"{name} {version}"
        for name, version in others.items()
        if name != "libtpu" and jax and version and _release(version) != _release(jax)
    ]
    there = [f"{name} {version}" for name, version in others.items() if version]
    if wrong:
        return fault(
            "jax and its parts",
            f"got jax {jax} with {', '.join(wrong)}, expected the same version.",
            f"Run `python -m pip install -U 'jax=={jax}'` with the extra that you "
            "use, such as jax[tpu] or jax[cuda13].",
        )
    return ok("jax and its parts", f"jax {jax} with {', '.join(there)}.")


def _check_package(name: str, expected: str) -> Finding:
    version = installed(name)
    if version is None:
        return fault(
            name,
            f"not installed, expected {name}{expected}.",
            f"Run `python -m pip install '{name}{expected}'`.",
        )
    if not satisfies(version, expected):
        return fault(
            name,
            f"got {version}, expected {expected}.",
            f"Run `python -m pip install '{name}{expected}'`.",
        )
    return ok(name, f"{version}, {expected or 'any version'} is required.")


def _python_required() -> str:
    try:
        metadata = importlib.metadata.metadata("cnn_jax")
    except importlib.metadata.PackageNotFoundError:
        return ""
    return str(metadata.json.get("requires_python", "")).replace(" ", "")


def _release(version: str) -> tuple[int, ...]:
    return _numbers(version)[:3]


def _numbers(version: str) -> tuple[int, ...]:
    """Returns the numbers of a release, without what marks a candidate of it."""
    release = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in release[0].split(".")] if release else []
    return tuple(numbers + [0] * (5 - len(numbers)))
