"""This host: its cores, memory, limits and clock."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
import time

from cnn_jax import machine, memory
from cnn_jax.doctor.directories import nearest_existing
from cnn_jax.doctor.finding import Finding, counted, ok, warning

SHARED_MEMORY = pathlib.Path("/dev/shm")
"""The directory through which worker processes hand batches over."""

LEAST_SHARED = 2**30
"""Bytes of it that some worker processes with batches of photographs want."""

LEAST_FILES = 4096
"""Open files that a run with worker processes may need, its record files included."""

LEAST_MEMORY = 2 * 2**30
"""Bytes that jax and one compilation want."""

CLOCK_TOLERANCE = 5.0
"""Seconds by which clocks may differ before records are in a wrong order."""


def check_cores() -> Finding:
    """Says what this process computes on."""
    cores, present = machine.num_cores(), os.cpu_count() or 1
    limited = f", of {present} of the machine" if cores < present else ""
    return ok("processor", f"{machine.cpu_model()}, {counted(cores, 'core')}{limited}.")


def check_memory() -> Finding:
    """Checks what this process can still allocate."""
    available = memory.available_bytes()
    if available is None:
        return ok("memory", "the system does not say how much there is.")
    sentence = f"{memory.size(available)} can be allocated."
    if available < LEAST_MEMORY:
        return warning(
            "memory",
            sentence,
            f"Free some: compiling a network takes up to {memory.size(LEAST_MEMORY)}.",
        )
    return ok("memory", sentence)


def check_shared_memory() -> Finding:
    """Checks the memory by which worker processes hand over what they decoded."""
    name = "shared memory"
    try:
        usage = shutil.disk_usage(SHARED_MEMORY)
    except OSError as error:
        return warning(
            name,
            f"{SHARED_MEMORY} cannot be used: {error.strerror}.",
            "Train with --num-workers 0.",
        )
    sentence = (
        f"{SHARED_MEMORY} has {memory.size(usage.free)} free of "
        f"{memory.size(usage.total)}."
    )
    if usage.free < LEAST_SHARED:
        return warning(
            name,
            f"{sentence} Worker processes end with SIGBUS when it is full.",
            "Give a container more (`docker run --shm-size 8g`), or train with "
            "--num-workers 0.",
        )
    return ok(name, sentence)


def check_open_files() -> Finding:
    """Checks how many files this process may have open."""
    import resource

    name = "open files"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    sentence = f"{'no limit' if unlimited else f'at most {soft:,}'}."
    if not unlimited and soft < LEAST_FILES:
        return warning(
            name,
            f"{sentence} Worker processes and array_record files may need more.",
            f"Run `ulimit -n {min(hard, 65536) if hard > 0 else 65536}` first.",
        )
    return ok(name, sentence)


def check_clock(directory: str | os.PathLike[str] | None) -> Finding:
    """Compares this host's clock with that of the file system.

    Args:
      directory: A directory that may be on another host; None for the system's own for
        temporary files.
    """
    name = "clock"
    where: str | os.PathLike[str] = directory or "a directory for temporary files"
    try:
        where = tempfile.gettempdir() if directory is None else directory
        # A run makes its directory.
        where = nearest_existing(pathlib.Path(where).expanduser().absolute())
        before = time.time()
        with tempfile.NamedTemporaryFile(dir=where, prefix=".cnn_jax_doctor_") as file:
            file.write(b"0")
            file.flush()
            written = os.stat(file.name).st_mtime
        after = time.time()
    except (OSError, RuntimeError) as error:  # the latter for an unknown ~user
        why = getattr(error, "strerror", None) or error
        return warning(
            name,
            f"not compared: no file can be written to {where} ({why}).",
            "Name a directory that can be written by --checkpoint-dir.",
        )
    ahead = max(written - after, before - written, 0.0)
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(after))
    if ahead > CLOCK_TOLERANCE:
        return warning(
            name,
            f"{now} here, and {ahead:.0f} s apart from the clock of the file system at "
            f"{where}.",
            "Synchronise the clocks (NTP).",
        )
    return ok(name, f"{now}, as files are dated at {where}.")
