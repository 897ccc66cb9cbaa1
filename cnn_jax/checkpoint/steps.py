"""The steps of a directory: listing, verification and removal."""

from __future__ import annotations

import contextlib
import itertools
import os
import re

from etils import epath

from cnn_jax.checkpoint import files, manifest, points, retention
from cnn_jax.checkpoint.errors import CheckpointError, DamagedError
from cnn_jax.checkpoint.lock import DirectoryLock
from cnn_jax.checkpoint.manifest import Manifest

_UNFINISHED, _REMOVED, _DAMAGED = ".unfinished", ".removed", ".damaged"
_TEMPORARY = ".orbax-checkpoint-tmp"
_STEP = re.compile(r"0|[1-9][0-9]*")
_LEFTOVER = re.compile(
    rf"({_STEP.pattern})"
    r"(\.removed|\.unfinished|(\.unfinished)?\.orbax-checkpoint-tmp(-[0-9]+)?)"
)


class StepDirectory:
    """A directory with a subdirectory for every step, without arrays and threads.

    Args:
      path: The directory, as `files.as_path` returns it.
      writes: Whether to create it, lock it, and remove what a killed process left.

    Attributes:
      damage: What is wrong with the steps found damaged so far; they do not count.
    """

    def __init__(self, path: epath.Path, *, writes: bool):
        self.path = path
        self.damage: dict[int, str] = {}
        self._writes = writes
        self._local = files.is_local(path)
        self._lock = None
        if writes:
            path.mkdir(parents=True, exist_ok=True)
            if self._local:
                self._lock = DirectoryLock(path)
            self._remove_leftovers()

    def step_path(self, step: int) -> epath.Path:
        """Returns where a step is, or will be."""
        return self.path / str(step)

    def unfinished_path(self, step: int) -> epath.Path:
        """Returns where a step is written: elsewhere, if it can be renamed."""
        return self.path / f"{step}{_UNFINISHED if self._local else ''}"

    def all(self) -> list[int]:
        """Returns the steps that have a directory, sound or not, in ascending order."""
        self.check_in_place()
        return sorted(
            int(path.name)
            for path in self._entries()
            if _STEP.fullmatch(path.name) and _is_directory(path)
        )

    def read(self, step: int, *, content: bool) -> Manifest:
        """Reads a step's manifest.

        Args:
          step: Which step.
          content: Whether to read all files and verify their sums, beyond their sizes.

        Raises:
          DamagedError: If the files are not what the manifest says.
          CheckpointError: If the manifest is of a newer format.
        """
        found = manifest.read(self.step_path(step))
        if found.step != step:
            raise DamagedError(f"it was saved as step {found.step}")
        check = manifest.check_content if content else manifest.check_sizes
        check(self.step_path(step), found)
        return found

    def sound(self) -> dict[int, Manifest]:
        """Returns the valid steps, judged by their manifests and their files' sizes."""
        while True:
            found, there = {}, self.all()
            for step in there:
                if step not in self.damage:
                    with contextlib.suppress(DamagedError):
                        found[step] = self.read(step, content=False)
            # Those that a run beside this object removes meanwhile are no longer there.
            if self._writes or self.all() == there:
                return found

    def check_in_place(self) -> None:
        """Raises `CheckpointError` if what was locked is no longer there."""
        if self._lock is not None and not self._lock.is_in_place:
            raise CheckpointError(f"{self.path} was deleted or replaced under the run")

    def check_free(self, step: int) -> None:
        """Raises `ValueError` if a step exists and is sound to the last bit."""
        if self.step_path(step).exists():
            with contextlib.suppress(DamagedError):
                self.read(step, content=True)
                raise ValueError(
                    f"step: got {step}, which already exists: {self.path}."
                )

    def make_room(self, step: int) -> None:
        """Renames whatever has a step's name and is no sound checkpoint."""
        path = self.step_path(step)
        self.damage.pop(step, None)
        if not path.exists():
            return
        if self._local:
            others = (f"{step}{_DAMAGED}-{number}" for number in itertools.count(2))
            names = itertools.chain([f"{step}{_DAMAGED}"], others)
            free = (self.path / name for name in names)
            files.rename(path, next(path for path in free if not path.exists()))
        elif not (path / manifest.NAME).exists():  # what a kill left of a save
            path.rmtree()
        else:
            raise CheckpointError(f"{path} is damaged and blocks the save; remove it")

    def publish(self, step: int) -> None:
        """Publishes a written step under its name."""
        if self._local:
            files.rename(self.unfinished_path(step), self.step_path(step))

    def discard_unfinished(self, step: int) -> None:
        """Removes the remains of a step that could not be written."""
        unfinished = self.unfinished_path(step)
        files.discard(unfinished)
        files.discard(unfinished.parent / (unfinished.name + _TEMPORARY))

    def remove_old(self, *, keep: int, keep_every: int | None) -> None:
        """Removes the sound steps that are to be kept no longer."""
        metrics = {step: found.metric for step, found in self.sound().items()}
        kept = retention.steps_to_keep(metrics, newest=keep, every=keep_every)
        for step in metrics.keys() - kept:
            path = self.step_path(step)
            if self._local:
                path = self.path / f"{step}{_REMOVED}"
                files.rename(self.step_path(step), path)
                points.reach("step_set_aside")
            (path / manifest.NAME).unlink()
            points.reach("step_half_removed")
            path.rmtree()

    def close(self) -> None:
        """Releases the lock."""
        if self._lock is not None:
            self._lock.release()

    def _remove_leftovers(self) -> None:
        for path in self._entries():
            if _LEFTOVER.fullmatch(path.name) and _is_directory(path):
                path.rmtree()

    def _entries(self) -> list[epath.Path]:
        """Returns what is in the directory; a bucket has none until something is."""
        return list(self.path.iterdir()) if self.path.exists() else []


def saved_steps(directory: str | os.PathLike[str]) -> list[int]:
    """Returns the steps that have a directory in one of checkpoints, sound or not.

    Nothing is written or locked, and the directory may be missing.
    """
    return StepDirectory(files.as_path(directory), writes=False).all()


def _is_directory(path: epath.Path) -> bool:
    return path.is_dir() and not os.path.islink(path)  # a link is not ours
