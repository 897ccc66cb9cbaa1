"""Versions and hardware of a run, and the differences on resume."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Collection, Mapping
from typing import Any

from cnn_jax.checkpoint.errors import ResumeRefusedError


def check_unchanged(
    what: str,
    saved: Mapping[str, Any],
    current: Mapping[str, Any],
    *,
    may_change: Collection[str] = (),
    hint: str = "",
) -> None:
    """Refuses to continue a run whose description has changed.

    Args:
      what: What is compared, for the message: "config", say.
      saved: The description in the checkpoint.
      current: The description now.
      may_change: Keys that do not matter.
      hint: How to allow a change, the end of the message.

    Raises:
      ResumeRefusedError: If any other key differs; all of them are listed.
    """
    saved, current = (
        {key: _plain(value) for key, value in side.items() if key not in may_change}
        for side in (saved, current)
    )
    found = differences(saved, current)
    if found:
        raise ResumeRefusedError(
            f"The run to resume was made with another {what}:\n"
            + "\n".join(found)
            + "\nResume with the same one, or start a new run in another directory"
            + (f"; {hint}." if hint else ".")
        )


def installed_versions() -> dict[str, str]:
    """Returns the versions of what the numbers of a run depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **versions}


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Returns a line for every key that two descriptions do not agree on."""
    lines = []
    for key in [*saved, *(key for key in current if key not in saved)]:
        sides = [
            repr(side[key]) if key in side else "absent" for side in (saved, current)
        ]
        if sides[0] != sides[1]:
            lines.append(f"  {key}: saved {sides[0]}, now {sides[1]}")
    return lines


def _plain(value: Any) -> Any:
    """Maps tuples to lists, as JSON does, so that both sides compare alike."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
