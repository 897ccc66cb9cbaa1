"""Asks the C library to keep the memory that a step frees for the next one.

XLA's CPU client allocates a step's temporary buffer anew in every step. glibc maps so
large a block by itself and unmaps it when it is freed, so that the system zeroes and
hands out every page of it again in the next step. Where it is kept instead, a step of a
convolutional network takes next to no page from the system; the process keeps the most
memory that it has had. `experiments/benchmarks/memory.py` compares both.

The settings are those of `mallopt` in glibc's manual, malloc/malloc.h. They concern the
whole process and hold until it ends, so nothing here runs when a module is imported.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os

VARIABLE = "CNN_JAX_KEEP_MEMORY"
"""The environment variable that switches it off by `0`, `false`, `no` or `off`."""

_SETTINGS = (
    # One arena, the one that can grow: in the others a large block is always mapped.
    # It must be set before the threads that allocate have arenas of their own.
    (-8, 1),  # M_ARENA_MAX
    (-4, 0),  # M_MMAP_MAX: no block is mapped by itself
    (-1, -1),  # M_TRIM_THRESHOLD: what is freed is not given back
)

_PLUGIN_VARIABLES = ("PJRT_NAMES_AND_LIBRARY_PATHS", "TPU_LIBRARY_PATH")
"""The environment variables by which JAX finds libraries of accelerators."""

_kept: list[bool] = []


def keep_memory(wanted: bool = True) -> bool:
    """Has the process keep the memory that it frees, if it computes on a CPU.

    To be called before the first computation: threads that have allocated stay with
    the arenas that they have. Where JAX may find an accelerator, its backend is started
    in order to know; some page faults may then remain.

    Args:
      wanted: False does nothing; the environment variable `CNN_JAX_KEEP_MEMORY` goes
        before.

    Returns:
      Whether memory is kept: always False on a GPU or TPU, where a step's memory is not
      the C library's and threads that decode images need arenas of their own, and with
      other C libraries than glibc.
    """
    if not _kept and _is_wanted(wanted) and _is_glibc() and _computes_on_cpu():
        mallopt = ctypes.CDLL(None).mallopt
        _kept.append(all(mallopt(name, value) == 1 for name, value in _SETTINGS))
    return keeps_memory()


def keeps_memory() -> bool:
    """Returns whether `keep_memory` has taken effect in this process."""
    return any(_kept)


def _is_wanted(wanted: bool) -> bool:
    said = os.environ.get(VARIABLE, "").strip().lower()
    return said not in ("0", "false", "no", "off") if said else wanted


def _computes_on_cpu() -> bool:
    """Returns whether JAX computes on a CPU; starts its backend only if it must."""
    import jax  # whoever asks `keeps_memory` alone need not wait for it

    named = jax.config.jax_platforms  # type: ignore[attr-defined]
    if named:
        return named.split(",")[0] == "cpu"
    return not _may_find_accelerators() or jax.default_backend() == "cpu"


def _may_find_accelerators() -> bool:
    """Returns whether a plugin of JAX's for a GPU or TPU is installed or named."""
    return (
        any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
        or bool(importlib.metadata.entry_points(group="jax_plugins"))
        or any(name in os.environ for name in _PLUGIN_VARIABLES)
    )


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, OSError, ValueError):
        return False
