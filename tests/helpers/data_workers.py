"""The processes that read data for a run, as Linux lists them."""

import contextlib
import os
import pathlib


def find_data_workers(parent=None):
    """Returns the pids of the workers that a process, else this one, has started.

    By each process's parent, since the threads of `parent` come and go meanwhile.
    """
    parent = os.getpid() if parent is None else parent
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        # It may end while it is looked at.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            _, _, status = (process / "stat").read_text().rpartition(")")
            is_child = int(status.split()[1]) == parent
            if is_child and b"spawn_main" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return sorted(found)
