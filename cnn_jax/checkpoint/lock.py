"""One run per directory: a lock that the kernel releases when its process ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
import weakref

from etils import epath

from cnn_jax.checkpoint.errors import DirectoryInUseError

NAME = "lock"


class DirectoryLock:
    """Holds the exclusive lock of a local directory until `release`.

    It is the kernel's (`flock` on the file `lock`): it ends with the process, killed or
    not, and leaves nothing stale; the file stays. It says who holds it. On a network
    file system it holds as far as that passes `flock` on.

    Args:
      directory: An existing directory.

    Raises:
      DirectoryInUseError: If it is held, by this process or another.
      OSError: If the file cannot be written.
    """

    def __init__(self, directory: epath.Path):
        self._path = os.fspath(directory / NAME)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self._read_holder()
            os.close(self._descriptor)
            raise DirectoryInUseError(
                f"{directory}: another run writes here ({holder}). Wait for it to end, "
                "or choose another directory."
            ) from None
        except OSError as error:
            os.close(self._descriptor)
            raise OSError(
                error.errno, f"no lock to be had ({error.strerror})", self._path
            ) from error
        _HELD.add(self)
        this = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, (json.dumps(this) + "\n").encode(), 0)

    @property
    def is_in_place(self) -> bool:
        """Returns whether the directory still holds the file that is locked."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        except OSError:
            return False

    def release(self) -> None:
        """Releases the lock; called again, it does nothing."""
        if self in _HELD:
            _HELD.discard(self)
            os.close(self._descriptor)

    def _read_holder(self) -> str:
        with contextlib.suppress(ValueError, KeyError):
            holder = json.loads(os.pread(self._descriptor, 4096, 0))
            return (
                f"process {holder['pid']} on {holder['host']} since {holder['since']}"
            )
        return "its lock does not say which"


_HELD: weakref.WeakSet[DirectoryLock] = weakref.WeakSet()


def _release_all() -> None:
    for lock in list(_HELD):
        lock.release()


# A forked worker would hold the lock beyond its parent's death. Closing its copy of the
# descriptor leaves the parent's lock as it is.
os.register_at_fork(after_in_child=_release_all)
