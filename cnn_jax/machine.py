"""The processor that this process runs on, and the cores that it may use."""

from __future__ import annotations

import os
import pathlib
import platform
import re
import subprocess

_VECTOR = re.compile(
    r"(sse|ssse|avx|fma|f16c|bmi|amx|asimd|sve|sme(?!p)|fphp|bf16|i8mm)[a-z0-9_]*"
)


def cpu_model() -> str:
    """Returns the processor's model, or its architecture where that is unknown."""
    names = _cpu_facts("model name")
    if names is None:
        return _sysctl("machdep.cpu.brand_string") or _architecture()
    return names or _architecture()


def vector_instructions() -> list[str]:
    """Returns the processor's extensions that arithmetic is compiled for, sorted."""
    found = _cpu_facts("flags") or _cpu_facts("Features") or ""
    return sorted(name for name in found.split() if _VECTOR.fullmatch(name))


def num_cores() -> int:
    """Returns how many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_facts(name: str) -> str | None:
    """Returns what the system says of the first core; None if it does not."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    found = (line for line in lines if line.partition(":")[0].strip() == name)
    return next(found, "").partition(":")[2].strip()


def _sysctl(name: str) -> str | None:
    try:
        done = subprocess.run(
            ("sysctl", "-n", name), capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _architecture() -> str:
    return platform.processor() or platform.machine() or "unknown"
