"""One run per directory: a lock that the kernel releases when its process ends."""

from __future__ import annotations

import contextlib
import contextvars
import fcntl
import json
import os
import pathlib
import socket
import time
import weakref
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from cnn_jax.checkpoint.errors import DirectoryInUseError
from cnn_jax.files import open_unlinked
from cnn_jax.messages import printable

LOCK = "lock"
"""The name of the file."""

MAX_HOLDER_BYTES = 4096
"""The most bytes of a lock's content that are read."""


class DirectoryLock:
    """Holds the exclusive lock of a local directory until `release`.

    It is the kernel's (`flock` on the file `lock`): it ends with the process, killed or
    not, and leaves nothing stale; the file stays. It says who holds it. On a network
    file system it holds as far as that passes `flock` on.

    Within `sharing` another object for the same directory holds the same lock. As a
    context manager it is shared, and released at the end.

    Args:
      directory: An existing directory.

    Raises:
      DirectoryInUseError: If it is held, by this process or another.
      OSError: If the file cannot be written, or is a link or no regular file.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self._path: str = os.path.join(os.path.abspath(directory), LOCK)
        self._key: str = os.path.realpath(directory)
        self._shared = contextlib.ExitStack()
        shared = _SHARED.get().get(self._key)
        self._owner: DirectoryLock = self if shared is None else shared
        if shared is not None:
            return
        self._descriptor = open_unlinked(self._path, os.O_RDWR | os.O_CREAT)
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
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, (json.dumps(this) + "\n").encode(), 0)
        except OSError as error:
            self.release()
            raise OSError(error.errno, error.strerror, self._path) from error

    @property
    def is_in_place(self) -> bool:
        """Returns whether the directory still holds the file that is locked."""
        try:
            return os.path.samestat(
                os.stat(self._path), os.fstat(self._owner._descriptor)
            )
        except OSError:
            return False

    @contextlib.contextmanager
    def sharing(self) -> Iterator[None]:
        """Lets what this thread opens within the block hold the same lock."""
        token = _SHARED.set({**_SHARED.get(), self._key: self._owner})
        try:
            yield
        finally:
            _SHARED.reset(token)

    def release(self) -> None:
        """Releases the lock if it is this object's own; again, it does nothing."""
        if self in _HELD:
            _HELD.discard(self)
            os.close(self._descriptor)

    def __enter__(self) -> DirectoryLock:
        self._shared.enter_context(self.sharing())
        return self

    def __exit__(self, *exception: object) -> None:
        self._shared.close()
        self.release()

    def _read_holder(self) -> str:
        # Whatever is there was perhaps not written by a run.
        with contextlib.suppress(Exception):
            holder = json.loads(os.pread(self._descriptor, MAX_HOLDER_BYTES, 0))
            pid, host, since = (holder[name] for name in ("pid", "host", "since"))
            return printable(f"process {pid} on {host} since {since}")[:200]
        return "its lock does not say which"


def lock_new(directory: str | os.PathLike[str]) -> DirectoryLock:
    """Creates a directory if it is missing, and returns its lock."""
    pathlib.Path(directory).mkdir(parents=True, exist_ok=True)
    return DirectoryLock(directory)


_SHARED: contextvars.ContextVar[Mapping[str, DirectoryLock]] = contextvars.ContextVar(
    "shared locks",
    default=MappingProxyType({}),
)
_HELD: weakref.WeakSet[DirectoryLock] = weakref.WeakSet()


def _release_all() -> None:
    for lock in list(_HELD):
        lock.release()


# A forked worker would hold the lock beyond its parent's death. Closing its copy of the
# descriptor leaves the parent's lock as it is.
os.register_at_fork(after_in_child=_release_all)
