"""Directories of runs and checkpoints: what a run will do there, tried in small."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from cnn_jax import memory
from cnn_jax.doctor.finding import Finding, TookTooLongError, fault, ok, warning, within
from cnn_jax.files import is_local

LEAST_FREE = 10 * 10**9
"""Bytes that the checkpoints of a run may take: three of ResNet-50 with momentum are
0.6 GB, and metrics and reports come on top."""

_PREFIX = ".cnn_jax_doctor_"


def check_directory(name: str, directory: str, seconds: float) -> list[Finding]:
    """Checks that a run can be kept in a directory, and removes what it wrote.

    Args:
      name: Which directory it is, such as `"checkpoint directory"`.
      directory: A local path or one behind `gs://`.
      seconds: How long the file system may take.
    """
    check = _check_local if is_local(directory) else _check_remote
    try:
        return within(seconds, lambda: check(name, directory))
    except TookTooLongError as error:
        return [
            fault(
                name,
                f"{directory}: {error}.",
                "See that the file system is mounted and its server answers.",
            )
        ]


def nearest_existing(path: pathlib.Path) -> pathlib.Path:
    """Returns a path, or the nearest of its parents that is there.

    Args:
      path: What a run may have to make.

    Raises:
      OSError: If the system does not say, as behind a directory without permission.
    """
    for each in (path, *path.parents):
        try:
            os.stat(each)
        except (FileNotFoundError, NotADirectoryError):
            continue
        return each
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _check_local(name: str, directory: str) -> list[Finding]:
    try:
        path = pathlib.Path(directory).expanduser().absolute()
        # A run makes it; what is there of it can be tried.
        nearest = nearest_existing(path)
    except (OSError, RuntimeError) as error:  # the latter for an unknown ~user
        why = getattr(error, "strerror", None) or str(error).rstrip(".")
        return [
            fault(
                name,
                f"{directory} cannot be reached: {why}.",
                "Choose another, or have it made accessible.",
            )
        ]
    if nearest == path and not os.path.isdir(path):
        return [fault(name, f"{path} is a file.", "Name a directory.")]
    is_new = "" if nearest == path else f", which does not exist yet, in {nearest}"
    findings = [
        _check_writing(name, path, nearest, is_new),
        _check_space(name, nearest),
    ]
    if nearest == path and findings[0].verdict == "ok":
        findings.append(_check_lock(name, path))
    return findings


def _check_writing(
    name: str, path: pathlib.Path, nearest: pathlib.Path, is_new: str
) -> Finding:
    try:
        with _trial_directory(nearest) as trial:
            _write_and_rename(trial)
    except OSError as error:
        return fault(
            name,
            f"{path}{is_new} cannot be written: {error.strerror or error}.",
            "Choose another, or have it made writable or larger.",
        )
    return ok(name, f"{path}{is_new}: written, synced, renamed and removed a file.")


def _write_and_rename(trial: pathlib.Path) -> None:
    """Does what a checkpoint does: write, sync, rename a directory, sync."""
    before, after = trial / "before", trial / "after"
    before.mkdir()
    with open(before / "file", "wb") as file:
        file.write(os.urandom(2**16))
        file.flush()
        os.fsync(file.fileno())
    os.rename(before, after)
    descriptor = os.open(trial, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if (after / "file").stat().st_size != 2**16:
        raise OSError("a renamed file has another size")


@contextlib.contextmanager
def _trial_directory(parent: pathlib.Path) -> Iterator[pathlib.Path]:
    made = pathlib.Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _check_space(name: str, nearest: pathlib.Path) -> Finding:
    name = f"{name}, space"
    try:
        usage, names = shutil.disk_usage(nearest), os.statvfs(nearest)
    except OSError as error:
        return warning(name, f"{nearest}: {error.strerror}.", "See what it is.")
    sentence = f"{memory.size(usage.free)} free of {memory.size(usage.total)}."
    if usage.free < LEAST_FREE:
        return warning(
            name,
            sentence,
            "Free some, or keep fewer checkpoints: a run ends when the disk is full.",
        )
    if names.f_files and not names.f_favail:
        return fault(name, f"{sentence} No file names are left.", "Remove files.")
    return ok(name, sentence)


def _check_lock(name: str, path: pathlib.Path) -> Finding:
    from cnn_jax.checkpoint.errors import DirectoryInUseError
    from cnn_jax.checkpoint.lock import LOCK, DirectoryLock

    name = f"{name}, lock"
    was_there = os.path.lexists(path / LOCK)
    if not was_there:
        # In a directory of its own: a run may begin here at this moment.
        with _trial_directory(path) as trial:
            return _locked(name, lambda: DirectoryLock(trial))
    try:
        import fcntl

        with open(path / LOCK, "rb") as file:  # the content stays the last holder's
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            DirectoryLock(path).release()  # says who holds it
        except DirectoryInUseError as error:
            return warning(name, str(error), "Wait for it, or choose another.")
        except OSError as error:
            return fault(name, f"{error}.", "See the owner of the file.")
        return ok(name, "held a moment ago, and free now.")
    except OSError as error:
        return fault(
            name,
            f"the lock cannot be taken: {error.strerror}.",
            "Mount the file system with locks, or choose another.",
        )
    return ok(name, "no run holds it, and it can be taken.")


def _locked(name: str, lock: Callable[[], Any]) -> Finding:
    try:
        lock().release()
    except OSError as error:
        return fault(
            name,
            f"a lock cannot be taken: {error.strerror or error}.",
            "Mount the file system with locks, or choose another.",
        )
    return ok(name, "a lock can be taken.")


def _check_remote(name: str, directory: str) -> list[Finding]:
    try:
        from cnn_jax.checkpoint.files import as_path

        path = as_path(directory)
        # A process's number may be that of another host's process too.
        trial = path / f"{_PREFIX}{uuid.uuid4().hex}"
    except ImportError as error:
        return [_no_library(name, directory, error)]
    except ValueError as error:
        return [fault(name, str(error), "Name a directory, or gs://BUCKET/PATH.")]
    content, failed = b"", []
    try:
        doing = "written"
        trial.write_bytes(b"doctor")
        doing = "read"
        content = trial.read_bytes()
    except ImportError as error:
        return [_no_library(name, directory, error)]
    except Exception as error:  # of the bucket's own library
        failed.append(f"cannot be {doing}: {type(error).__name__}: {error}")
    finally:
        # What was refused may have been written all the same.
        try:
            trial.unlink()
        except Exception as error:
            if doing == "read":
                failed.append(
                    f"cannot be removed and stays behind as {trial.name}: "
                    f"{type(error).__name__}: {error}"
                )
    if failed:
        return [
            fault(
                name,
                f"{directory}: an object {'; it '.join(failed)}",
                "See that the bucket is there and that this host's account may write, "
                "read and delete in it (`gcloud auth application-default login`).",
            )
        ]
    if content != b"doctor":
        return [fault(name, f"{directory} returns other bytes.", "Report it.")]
    return [ok(name, f"{directory}: written, read and removed an object.")]


def _no_library(name: str, directory: str, error: ImportError) -> Finding:
    return fault(
        name,
        f"{directory} cannot be reached without {error.name or error}.",
        "Run `python -m pip install gcsfs` for gs://, s3fs for s3://.",
    )
