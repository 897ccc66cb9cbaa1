"""The points that every save passes, by name.

A test that kills a process at each of them proves what a kill leaves behind. Nothing
happens at a point unless a function is set here, which nothing but such a test does.
"""

from __future__ import annotations

from collections.abc import Callable

POINTS = (
    "save_begins",  # nothing has been written
    "arrays_written",  # they are in Orbax's temporary directory
    "arrays_committed",  # Orbax has renamed that, and there is no manifest
    "manifest_written",  # all is written, not yet under the step's name
    "step_committed",  # the step counts
    "step_set_aside",  # of an old step's removal: it has lost its name
    "step_half_removed",  # and its manifest
)

on_reach: Callable[[str], None] | None = None
"""Called with the name of each point, in the thread that reaches it."""


def reach(point: str) -> None:
    """Calls the function that is set, with a point's name."""
    if on_reach is not None:
        on_reach(point)
