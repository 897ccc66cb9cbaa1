"""Saves and restores: the arrays, by Orbax, and the thread that completes a step."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math
import os
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from cnn_jax import trees
from cnn_jax.checkpoint import files, manifest, points, retention
from cnn_jax.checkpoint.changes import differences
from cnn_jax.checkpoint.errors import (
    CheckpointError,
    DamagedCheckpointWarning,
    DamagedError,
    RemovedError,
    SaveError,
)
from cnn_jax.checkpoint.manifest import Manifest
from cnn_jax.checkpoint.steps import StepDirectory

_T = TypeVar("_T")

_MOST_REMOVALS = 20
"""The number of times in a row a step may be removed under a reader."""

_UNLIMITED = 100 * 365 * 24 * 3600
"""Seconds after which Orbax gives a save up. It takes them by the system's clock, which
may be set forward while files are written: whatever it is set to, the save goes on."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A restored checkpoint, as `Checkpointer.restore` returns it.

    Attributes:
      step: The step it was saved under.
      tree: The arrays, in the template's structure and on its shardings.
      metadata: What was saved with them.
    """

    step: int
    tree: Any
    metadata: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Description:
    """A checkpoint's contents without arrays, as `Checkpointer.describe` returns them.

    Attributes:
      step: The step the checkpoint was saved under.
      leaves: Path -> `"float32[3,3,16,16]"` of every array in it.
      metadata: What was saved with them.
    """

    step: int
    leaves: dict[str, str]
    metadata: dict[str, Any]


class Checkpointer:
    """Saves and restores checkpoints in one directory.

    Saving is asynchronous: `save` returns once the arrays are copied. In the background
    Orbax writes them, the files reach the disk, the manifest lists their checksums,
    and one rename publishes the step: a step without a valid manifest does not count.
    What goes wrong in the background is raised, once, by the next `save`, `restore`,
    `wait`, `close` or listing of the steps.

    Kept are the newest checkpoints, the best one (the highest finite metric, the
    earliest of equals), what was the best when one of the newest was saved, and every
    k-th step. What a killed process left unfinished is removed at the start. Damaged
    steps count for nothing and are never removed.

    Only one object at a time, of all processes, writes into a local directory. Behind
    `gs://` (which needs `gcsfs`) there is no lock and no rename: give every run a
    directory of its own; there the manifest, which is written last, is the commit.

    With several processes all make the same calls, and the first writes the manifest.
    Arrays that no process can read whole are verified by their files' checksums alone.

    Use it as a context manager, or call `close`.

    Args:
      directory: The checkpoints' directory; created if missing.
      keep: How many of the newest to keep.
      keep_every: Keeps the steps that are multiples of it, if it is not None.
      read_only: Reads beside a run that writes: takes no lock and changes nothing.

    Raises:
      ValueError: If `keep` or `keep_every` is not positive.
      DirectoryInUseError: If another run writes into the directory.
      OSError: If the directory cannot be created or written.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int = 2,
        keep_every: int | None = None,
        read_only: bool = False,
    ):
        for name, value in (("keep", keep), ("keep_every", keep_every)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: got {value}, expected at least 1.")
        self.directory: Any = files.as_path(directory)
        self._keep, self._keep_every = keep, keep_every
        self._read_only = read_only
        self._primary = jax.process_index() == 0
        self._steps = StepDirectory(
            self.directory, writes=self._primary and not read_only
        )
        self._thread: threading.Thread | None = None
        self._error: CheckpointError | None = None
        self._has_failed = False
        self._closed = False
        self._num_meetings = 0
        self._orbax = ocp.StandardCheckpointer(
            async_options=ocp.options.AsyncOptions(
                timeout_secs=_UNLIMITED,
                post_finalization_callback=lambda: points.reach("arrays_written"),
                # Else Orbax's writers block on a directory that cannot be created.
                create_directories_asynchronously=False,
            )
        )

    def save(
        self,
        step: int,
        tree: Any,
        metadata: Mapping[str, Any],
        *,
        metric: float | None = None,
    ) -> None:
        """Saves a tree under a step number.

        The arrays are copied before this returns, so they may be donated afterwards.

        Args:
          step: The step's number, not saved before. A damaged checkpoint in its place
            is renamed.
          tree: A tree of arrays.
          metadata: What JSON can hold.
          metric: What the best checkpoint is chosen by, higher is better; None, NaN or
            an infinity for one that is not to be chosen.

        Raises:
          ValueError: If the step is negative, or exists and is sound.
          TypeError: If JSON cannot hold the metadata.
          SaveError: If this save cannot begin, or the last one failed.
          CheckpointError: If this object only reads.
        """
        if step < 0:
            raise ValueError(f"step: got {step}, expected at least 0.")
        # Its own copy: the caller may go on with the old one.
        user = json.loads(json.dumps(dict(metadata)))
        self._check_writable()
        self.wait()
        self._steps.check_free(step)
        try:
            points.reach("save_begins")
            self._steps.check_in_place()
            self._synchronize()
            if self._primary:
                self._steps.make_room(step)
            content = Manifest(
                step=step,
                metric=_finite_or_none(metric),
                leaves=trees.leaf_specs(tree),
                digest=_digest(tree),
                user=user,
            )
            self._begin(step, tree)
        except Exception as error:
            raise self._not_saved(step, error) from error
        self._thread = threading.Thread(
            target=self._complete, args=(content,), name=f"save-{step}"
        )
        self._thread.start()

    def amend(
        self, step: int, metadata: Mapping[str, Any], *, metric: float | None = None
    ) -> None:
        """Replaces a checkpoint's metadata, for results known only after the save.

        One rename does it, so that the checkpoint counts at every moment, with the old
        metadata or with the new.

        Args:
          step: A checkpoint that is sound.
          metadata: What JSON can hold, in place of what was saved.
          metric: Likewise; see `save`.

        Raises:
          TypeError: If JSON cannot hold the metadata.
          CheckpointError: If there is no such checkpoint, it is damaged, or this object
            only reads.
          SaveError: If the manifest cannot be written.
        """
        user = json.loads(json.dumps(dict(metadata)))
        self._check_writable()
        self.wait()
        if self._primary:
            try:
                found = self._steps.read(step, content=False)
                manifest.replace(
                    self._steps.step_path(step),
                    dataclasses.replace(
                        found, user=user, metric=_finite_or_none(metric)
                    ),
                )
            except CheckpointError:
                raise
            except Exception as error:
                raise self._not_saved(step, error) from error
        self._synchronize()

    def restore(
        self, template: Any, *, step: int | None = None, partial: bool = False
    ) -> Checkpoint:
        """Restores a checkpoint, or a part of it, and verifies it.

        Args:
          template: A tree of arrays, or of `jax.ShapeDtypeStruct` with shardings, of
            the structure, shapes and dtypes saved. The result is placed by the
            template's shardings, whatever the shardings of the saved arrays were.
          step: Which checkpoint; when None, the newest that is sound, with a
            `DamagedCheckpointWarning` for every newer one.
          partial: Whether the template may lack leaves, which are then not read. All
            files are verified nevertheless; the digest, a sum over all arrays, only if
            nothing is lacking.

        Returns:
          The checkpoint.

        Raises:
          FileNotFoundError: If there is no such checkpoint.
          CheckpointError: If it is damaged, or, when `step` is None, all are (each is
            listed with what is wrong with it); if its leaves are not the template's
            (all differences are listed).
          RemovedError: If the run beside which this object reads removed it meanwhile;
            when `step` is None, again and again.
        """
        return self._use(step, lambda step: self._restore(template, step, partial))

    def describe(self, step: int | None = None) -> Description:
        """Returns what a checkpoint holds; chooses and verifies as `restore` does."""

        def read(step: int) -> Description:
            found = self._steps.read(step, content=True)
            return Description(step, found.leaves, found.user)

        return self._use(step, read)

    def metadata(self, step: int | None = None) -> dict[str, Any]:
        """Returns a checkpoint's metadata; chooses and verifies as `restore` does."""
        return self._use(step, lambda step: self._steps.read(step, content=True).user)

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that count, in ascending order, once saves are done.

        Those with a valid manifest and files of the right sizes; what is in the files
        is verified when they are used. What was then found damaged is left out.
        """
        self.wait()
        return tuple(self._steps.sound())

    @property
    def latest_step(self) -> int | None:
        """The newest of `steps`, or None."""
        return max(self.steps, default=None)

    @property
    def best_step(self) -> int | None:
        """The one of `steps` with the highest metric, the earliest of equals."""
        self.wait()
        sound = self._steps.sound()
        return retention.best_step({step: sound[step].metric for step in sound})

    def wait(self) -> None:
        """Returns when every save is on disk; raises what went wrong with one.

        Raises:
          SaveError: If the last save failed; the next may succeed.
          CheckpointError: If it succeeded, but older steps could not be removed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self._synchronize()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Waits for every save, then frees what this object holds."""
        if self._closed:
            return
        self._closed = True
        try:
            self.wait()
        finally:
            try:
                self._orbax.close()
            except Exception:
                # Orbax raises a failed save's error again here, with another message.
                if not self._has_failed:
                    raise
            finally:
                self._steps.close()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check_writable(self) -> None:
        if self._read_only:
            raise CheckpointError(f"{self.directory} was opened for reading only.")

    def _begin(self, step: int, tree: Any) -> None:
        """Copies the arrays and has them written in the background."""
        try:
            self._orbax.save(
                self._steps.unfinished_path(step), trees.named_leaves(tree)
            )
        except BaseException:
            self._steps.discard_unfinished(step)
            raise

    def _complete(self, content: Manifest) -> None:
        """Waits until the arrays are written, then publishes the step."""
        step = content.step
        try:
            self._orbax.wait_until_finished()
            if not self._primary:
                return
            points.reach("arrays_committed")
            manifest.write(self._steps.unfinished_path(step), content)
            points.reach("manifest_written")
            self._steps.check_in_place()  # Orbax makes a directory that was deleted
            self._steps.publish(step)
        except BaseException as error:  # raised later, by the caller's next call
            self._steps.discard_unfinished(step)
            self._error = self._not_saved(step, error)
            self._error.__cause__ = error
            return
        points.reach("step_committed")
        try:
            self._steps.remove_old(keep=self._keep, keep_every=self._keep_every)
        except BaseException as error:
            self._error = self._not_removed(step, error)
            self._error.__cause__ = error

    def _use(self, step: int | None, read: Callable[[int], _T]) -> _T:
        """Reads a step, or the newest that turns out to be sound.

        The run beside which it is read may remove the newest meanwhile: it has saved
        another by then.
        """
        self.wait()
        for attempt in itertools.count(1):
            there = self._steps.all()
            try:
                return self._use_one_of(there, step, read)
            except RemovedError:
                if step is not None or attempt == _MOST_REMOVALS:
                    raise
            except FileNotFoundError:
                # While one is listed in its directory, another takes its place.
                if there or self._steps.all() == there:
                    raise
        raise AssertionError("unreachable")

    def _use_one_of(
        self, there: list[int], step: int | None, read: Callable[[int], _T]
    ) -> _T:
        if not there or (step is not None and step not in there):
            wanted = "a checkpoint" if step is None else f"step {step}"
            raise FileNotFoundError(
                f"{self.directory}: expected {wanted}, found "
                f"{f'the steps {there}' if there else 'none'}."
            )
        if step is None:
            return self._use_newest(there, read)
        try:
            return self._read(step, read)
        except DamagedError as error:
            raise CheckpointError(
                f"{self._steps.step_path(step)}: the checkpoint is damaged: {error}."
            ) from error

    def _use_newest(self, there: list[int], read: Callable[[int], _T]) -> _T:
        damage, passed_over = self._steps.damage, []
        for step in reversed(there):
            if step in damage:
                continue
            try:
                found = self._read(step, read)
            except DamagedError as error:
                damage[step] = str(error)
                passed_over.append(step)
                continue
            for damaged in passed_over:
                warnings.warn(
                    f"{self._steps.step_path(damaged)}: the checkpoint is damaged: "
                    f"{damage[damaged]}. Step {step} is used.",
                    DamagedCheckpointWarning,
                    stacklevel=5,
                )
            return found
        raise CheckpointError(
            f"{self.directory}: every checkpoint is damaged:\n"
            + "\n".join(f"  {step}: {damage[step]}" for step in there)
            + "\nRestore them from a copy, or start a new run in another directory."
        )

    def _read(self, step: int, read: Callable[[int], _T]) -> _T:
        """Reads a step; what goes wrong when it is removed is that it is removed."""
        try:
            return read(step)
        except (CheckpointError, OSError) as error:
            path = self._steps.step_path(step)
            if not self._read_only or path.exists():
                raise
            raise RemovedError(
                f"{path}: the checkpoint was removed while it was read, by the run "
                "that writes here, which keeps its newest: read that, or have it keep "
                "more (--keep-checkpoints)."
            ) from error

    def _restore(self, template: Any, step: int, partial: bool) -> Checkpoint:
        content = self._steps.read(step, content=True)
        path = self._steps.step_path(step)
        saved, specs = content.leaves, trees.leaf_specs(template)
        if partial:
            saved = {name: spec for name, spec in saved.items() if name in specs}
        changed = differences(saved, specs)
        if changed:
            raise CheckpointError(
                f"{path}: the checkpoint's arrays are not those expected:\n"
                + "\n".join(changed)
            )
        wanted = {
            name: _abstract(leaf) for name, leaf in trees.named_leaves(template).items()
        }
        is_whole = len(saved) == len(content.leaves)
        try:
            if is_whole:
                leaves = self._orbax.restore(path, wanted)
            else:
                leaves = _restore_part(path, wanted)
        except Exception as error:  # not damage: the files are as they were written
            _ignore_abandoned_reads()
            raise CheckpointError(
                f"{path}: the files are sound, but the arrays cannot be read: {error}"
            ) from error
        tree = jax.tree.unflatten(
            jax.tree.structure(template), [leaves[name] for name in wanted]
        )
        digest = _digest(tree) if is_whole else None
        if None not in (digest, content.digest) and digest != content.digest:
            raise DamagedError("its arrays are not those that were saved")
        return Checkpoint(step, tree, content.user)

    def _not_saved(self, step: int, error: BaseException) -> SaveError:
        self._has_failed = True
        logging.getLogger("asyncio").addFilter(_is_worth_saying)
        what = f"{self._steps.step_path(step)}: step {step} could not be saved"
        try:
            self._steps.check_in_place()
        except CheckpointError as gone:  # and the steps before it with it
            return SaveError(f"{what}: {gone}.")
        return SaveError(
            f"{what}; the steps before it are untouched. "
            f"{type(error).__name__}: {error}"
        )

    def _not_removed(self, step: int, error: BaseException) -> CheckpointError:
        try:
            self._steps.check_in_place()
        except CheckpointError:  # what was saved is gone as well
            return self._not_saved(step, error)
        return CheckpointError(
            f"{self._steps.step_path(step)}: the step is saved, but older ones could "
            f"not be removed: {error}"
        )

    def _synchronize(self) -> None:
        """Waits for the other processes, without occupying the devices."""
        if jax.process_count() > 1:
            self._num_meetings += 1
            ocp.multihost.sync_global_processes(
                f"{self.directory}:{self._num_meetings}",
                processes=set(range(jax.process_count())),
            )


def _restore_part(
    path: os.PathLike[str], wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """Restores some leaves; Orbax's standard checkpointer restores all or nothing."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        return reader.restore(
            path,
            args=ocp.args.PyTreeRestore(
                item=wanted,
                restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                partial_restore=True,
            ),
        )


def _digest(tree: Any) -> str | None:
    """Returns the tree's digest, or None if this process cannot read all of it."""
    arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    if all(leaf.is_fully_addressable or leaf.is_fully_replicated for leaf in arrays):
        return trees.digest(tree)
    return None


def _finite_or_none(metric: float | None) -> float | None:
    if metric is None or not math.isfinite(metric):
        return None
    return float(metric)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None)
    )


def _ignore_abandoned_reads() -> None:
    """Keeps Python from printing tracebacks of reads that Orbax abandons.

    When one array cannot be read, the coroutines of the others end with an error of
    their own whenever they are collected.
    """
    inner = sys.unraisablehook
    if getattr(inner, "ignores_orbax", False):
        return

    def report(unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)
        if code is None or f"{os.sep}orbax{os.sep}" not in code.co_filename:
            inner(unraisable)

    report.ignores_orbax = True  # type: ignore[attr-defined]
    sys.unraisablehook = report


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Keeps asyncio from logging the futures that Orbax abandons when a save fails.

    It does so whenever such a future is collected, maybe after the sentence that says
    what failed; errors from elsewhere pass.
    """
    traceback = record.exc_info[2] if record.exc_info else None
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__", "")
        if module.partition(".")[0] == "orbax":
            return False
        traceback = traceback.tb_next
    return True
