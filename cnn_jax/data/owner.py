"""Worker processes, and what a killed process leaves behind: named after it.

The kernel frees a dead process's memory and locks, but neither its objects in
`/dev/shm` nor its scratch directories. Their names say who made them:

    cnn_jax-PID-START-NAMESPACE-...     (and the host, where a directory is shared)

`START` is when the process began, in the kernel's ticks, since process numbers are used
again; `NAMESPACE` is the one that the number belongs to, as containers have their own.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing.process
import multiprocessing.resource_tracker
import multiprocessing.shared_memory
import os
import pathlib
import re
import secrets
import shutil
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

from cnn_jax.program import SIGNALS

PREFIX = "cnn_jax-"
_SHARED = pathlib.Path("/dev/shm")
_OWNER = r"(?P<pid>[0-9]+)-(?P<start>[0-9]+)-(?P<namespace>[0-9]+)"


def this_process() -> str:
    """Returns the owner's part of a name: `PID-START-NAMESPACE`."""
    return f"{os.getpid()}-{_start(os.getpid())}-{_namespace()}"


def begin_starting_workers() -> None:
    """Prepares a thread that starts worker processes, perhaps by further threads.

    The processes do not notice a signal until `begin_worker`, and the semaphores that
    `multiprocessing` makes from now on name this process.
    """
    config: Any = getattr(multiprocessing.process.current_process(), "_config", {})
    config["semprefix"] = f"/{PREFIX}{this_process()}"
    # Its first start unblocks these signals.
    multiprocessing.resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def begin_worker() -> None:
    """Makes a worker process end when its parent does, and not by Ctrl-C before.

    Ctrl-C reaches every process of a terminal, and the parent may want to save first.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A killed parent sends no signal; its workers would keep running and hold memory.
    parent = multiprocessing.process.parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)


def own_shared_memory(owner: str) -> None:
    """Has all shared memory that this process makes from now on name an owner.

    Args:
      owner: `this_process` of the process that it is for.
    """
    shared_memory: Any = multiprocessing.shared_memory
    shared_memory._make_filename = functools.partial(_shared_memory_name, owner)


def remove_shared_memory_of_the_dead() -> None:
    """Removes what processes of this project left in `/dev/shm` when they were killed.

    Nothing of a live process, of another user, or of another container is touched.
    """
    pattern = re.compile(rf"(sem\.)?{PREFIX}{_OWNER}-.+")
    _remove_of_the_dead(_SHARED, pattern, pathlib.Path.unlink)


def directory_prefix(prefix: str) -> str:
    """Returns how the name of a scratch directory of this process begins."""
    return f"{prefix}{this_process()}-{socket.gethostname()}-"


def remove_directories_of_the_dead(home: pathlib.Path, prefix: str) -> None:
    """Removes the scratch directories whose processes, of this host, are dead.

    Args:
      home: Where they are.
      prefix: Of `directory_prefix`.
    """
    host = re.escape(socket.gethostname())
    pattern = re.compile(rf"{re.escape(prefix)}{_OWNER}-{host}-[^-]+")

    def remove(path: pathlib.Path) -> None:
        if not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)

    _remove_of_the_dead(home, pattern, remove)


def _remove_of_the_dead(
    home: pathlib.Path,
    pattern: re.Pattern[str],
    remove: Callable[[pathlib.Path], None],
) -> None:
    try:
        found = list(home.iterdir())
    except OSError:  # there is none, or it is not ours to list
        return
    for path in found:
        match = pattern.fullmatch(path.name)
        if match is None or match["namespace"] != _namespace():
            continue
        # Someone else may remove it at the same time.
        with contextlib.suppress(OSError):
            is_own = path.lstat().st_uid == os.geteuid()
            if is_own and _start(int(match["pid"])) != match["start"]:
                remove(path)


def _shared_memory_name(owner: str) -> str:
    return f"/{PREFIX}{owner}-{secrets.token_hex(8)}"


def _start(pid: int) -> str:
    """Returns when a process began, in ticks since the system's start; "0" if dead."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return "0"
    # The second field, a name in parentheses, may hold spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return "0" if fields[0] in "ZX" else fields[19]


def _namespace() -> str:
    try:
        return re.sub("[^0-9]", "", os.readlink("/proc/self/ns/pid")) or "0"
    except OSError:  # a system without
        return "0"
