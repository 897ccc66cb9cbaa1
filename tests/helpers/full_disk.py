"""A disk that is full for one file alone."""

import contextlib
import errno
import os


@contextlib.contextmanager
def no_space_for(name):
    """Has a whole file of this name find no space when it is synced to the disk."""
    sync = os.fsync

    def full(descriptor):
        path = os.path.realpath(f"/proc/self/fd/{descriptor}")
        if os.path.basename(path) == f"{name}.new":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    os.fsync = full
    try:
        yield
    finally:
        os.fsync = sync
