"""The memory of this process's host, and the refusal of work that needs more.

What is about to be allocated is compared with what there is: a process that the system
kills for memory says nothing of why.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping

MEMINFO = pathlib.Path("/proc/meminfo")
STATM = pathlib.Path("/proc/self/statm")
OWN_GROUPS = pathlib.Path("/proc/self/cgroup")
GROUPS = pathlib.Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Returns the bytes that this process can still allocate.

    They are the least of what the machine has free, its swap included, what the control
    groups that the process is in leave it (version 1 or 2; files that are cached count
    as free), and what its own limit of addresses leaves.

    Returns:
      The bytes; None on a system that tells none of this.
    """
    found = [_free(), *_left_by_groups(), _left_of_addresses()]
    known = [number for number in found if number is not None]
    return max(min(known), 0) if known else None


def require(
    parts: Mapping[str, int], *, what: str, advice: str, available: int | None
) -> None:
    """Refuses what needs more memory than there is.

    Args:
      parts: The bytes that it needs, by what they are for.
      what: The work, as the error calls it: `"the training set"`.
      advice: What to change.
      available: The bytes that there are; None if nobody knows, which refuses nothing.

    Raises:
      ValueError: `memory: got WHAT, which needs N (PARTS), expected at most the M that
        are free; ADVICE.`
    """
    needed = sum(parts.values())
    if available is None or needed <= available:
        return
    listed = ", ".join(f"{name} {size(number)}" for name, number in parts.items())
    listed = f" ({listed})" if len(parts) > 1 else ""
    raise ValueError(
        f"memory: got {what}, which needs {size(needed)}{listed}, expected at most the "
        f"{size(available)} that are free; {advice}."
    )


def size(number: int) -> str:
    """Returns a number of bytes as a text, such as `1.5 GB`."""
    amount, units = float(number), ["bytes", "kB", "MB", "GB", "TB", "PB"]
    while amount >= 999.5 and len(units) > 1:
        amount /= 1000
        del units[0]
    is_short = amount < 100 and amount != int(amount)
    return f"{amount:{'.3g' if is_short else ',.0f'}} {units[0]}"


def _free() -> int | None:
    """Returns what the machine has free, and its free swap."""
    lines = dict(line.split(":", 1) for line in _lines(MEMINFO) if ":" in line)
    if "MemAvailable" not in lines:
        return None
    names = ("MemAvailable", "SwapFree")
    return 1024 * sum(int(lines.get(name, "0").split()[0]) for name in names)


def _left_by_groups() -> Iterator[int]:
    """Yields what is left of each limit on a control group that holds this process."""
    for line in _lines(OWN_GROUPS):
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            top, names = GROUPS / "memory", ("limit_in_bytes", "usage_in_bytes")
        elif not controllers:  # of version 2
            top, names = GROUPS, ("max", "current")
        else:
            continue
        # In a container the path may be the host's, where the mount shows only its top.
        group = top / path.strip().lstrip("/")
        for each in (group, *group.parents):
            left = _left_in_group(each, *names)
            if left is not None:
                yield left
            if each == top:
                break


def _left_in_group(group: pathlib.Path, limit: str, usage: str) -> int | None:
    limits = _lines(group / f"memory.{limit}")
    used = _lines(group / f"memory.{usage}")
    if not (limits and used and limits[0].isdigit()):  # "max" is no limit
        return None
    counts = dict(line.split(" ", 1) for line in _lines(group / "memory.stat"))
    prefix = "total_" if "total_inactive_file" in counts else ""
    cached = sum(
        int(counts.get(f"{prefix}{name}_file", 0)) for name in ("inactive", "active")
    )
    return int(limits[0]) - int(used[0]) + cached


def _left_of_addresses() -> int | None:
    """Returns what is left of the limit on the process's addresses, if it has one."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _lines(STATM)
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    return limit - int(pages[0].split()[0]) * resource.getpagesize()


def _lines(path: pathlib.Path) -> list[str]:
    """Returns a file's lines; none of one that cannot be read."""
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
