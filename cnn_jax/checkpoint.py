"""Checkpoints: a tree of arrays and what must be known about it, saved atomically.

The only module that knows Orbax. It knows no model and no training: what is saved is
any tree, under a step number, with a metadata mapping that JSON can hold. Every
checkpoint records the names, shapes and dtypes of its leaves and a digest of their
bytes, and restoring verifies both: nothing damaged or mismatched is loaded silently.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from cnn_jax import trees

_ARRAYS = "arrays"
_METADATA = "metadata"
_METRIC = "metric"


class CheckpointError(RuntimeError):
    """A checkpoint does not hold what was saved into it, or not what is expected."""


class ResumeRefusedError(ValueError):
    """A run cannot be continued because something that shapes it has changed."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What `Checkpointer.restore` returns.

    Attributes:
      step: The step it was saved under.
      tree: The arrays, in the template's structure and on its shardings.
      metadata: What was saved with them.
    """

    step: int
    tree: Any
    metadata: dict[str, Any]


class Checkpointer:
    """Saves and restores checkpoints in one directory.

    Saving is asynchronous: `save` returns once the arrays are copied, and the files
    appear under their final name in one rename when they are complete. An error in the
    background is raised by the next `save`, by `wait` or by `close`. Kept are the
    newest checkpoints and the best one: the highest metric, the earliest of equals.
    Temporary directories that a dead process left behind are removed at the start.

    Use it as a context manager, or call `close`.

    Args:
      directory: Where the checkpoints lie; created if missing.
      keep: How many of the newest to keep beside the best one.

    Raises:
      ValueError: If `keep` is not positive.
    """

    def __init__(self, directory: str | os.PathLike, *, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep: got {keep}, expected at least 1.")
        self.directory = pathlib.Path(directory).absolute()
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                best_fn=lambda metrics: metrics[_METRIC],  # has them written and read
                preservation_policy=_NewestAndBest(keep),
                cleanup_tmp_directories=True,
            ),
            item_handlers={
                _ARRAYS: ocp.StandardCheckpointHandler(),
                _METADATA: ocp.JsonCheckpointHandler(),
            },
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
          step: The step's number, not saved before.
          tree: A tree of arrays.
          metadata: What JSON can hold.
          metric: What the best checkpoint is chosen by, higher is better; None for one
            that is kept for its recency only.

        Raises:
          ValueError: If the step exists already.
          Exception: Whatever stopped an earlier save in the background.
        """
        record = {
            "leaves": trees.leaf_specs(tree),
            "digest": trees.digest(tree),
            "user": dict(metadata),
        }
        self._manager.save(
            step,
            args=ocp.args.Composite(
                **{
                    _ARRAYS: ocp.args.StandardSave(trees.named_leaves(tree)),
                    _METADATA: ocp.args.JsonSave(record),
                }
            ),
            metrics={_METRIC: metric},
            force=True,
        )

    def restore(self, template: Any, *, step: int | None = None) -> Checkpoint:
        """Restores a checkpoint and verifies it.

        Args:
          template: A tree of arrays, or of `jax.ShapeDtypeStruct` with shardings, of
            the structure, shapes and dtypes saved. The result lies where it says.
          step: Which checkpoint, the newest when None.

        Returns:
          The checkpoint.

        Raises:
          FileNotFoundError: If there is no such checkpoint.
          CheckpointError: If its leaves are not the template's (all differences are
            listed) or its bytes are not those that were saved.
        """
        step = self._find(step)
        record = self._record(step)
        differences = _differences(record["leaves"], trees.leaf_specs(template))
        if differences:
            raise CheckpointError(
                f"{self.directory / str(step)}: the checkpoint's arrays are not those "
                "expected:\n" + "\n".join(differences)
            )
        wanted = {
            name: _abstract(leaf) for name, leaf in trees.named_leaves(template).items()
        }
        leaves = self._read(step, _ARRAYS, ocp.args.StandardRestore(wanted))
        tree = jax.tree.unflatten(
            jax.tree.structure(template),
            [leaves[name] for name in wanted],
        )
        if trees.digest(tree) != record["digest"]:
            raise self._damaged(step, "its arrays are not those that were saved")
        return Checkpoint(step, tree, record["user"])

    def metadata(self, step: int | None = None) -> dict[str, Any]:
        """Returns the metadata of a checkpoint, the newest when `step` is None."""
        return self._record(self._find(step))["user"]

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that can be restored, in ascending order, once saves are done."""
        self.wait()
        return tuple(sorted(self._manager.all_steps()))

    @property
    def latest_step(self) -> int | None:
        """The newest step, or None."""
        return max(self.steps, default=None)

    @property
    def best_step(self) -> int | None:
        """The step with the highest metric, the earliest of equals, or None."""
        metrics = {step: self._manager.metrics(step) for step in self.steps}
        return _best(
            {step: found and found[_METRIC] for step, found in metrics.items()}
        )

    def wait(self) -> None:
        """Returns when every save is on disk; raises what went wrong with one."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def close(self) -> None:
        """Waits for every save, then frees what this object holds."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _find(self, step: int | None) -> int:
        steps = self.steps
        if not steps or (step is not None and step not in steps):
            wanted = "a checkpoint" if step is None else f"step {step}"
            raise FileNotFoundError(
                f"{self.directory}: expected {wanted}, found "
                f"{f'the steps {list(steps)}' if steps else 'none'}."
            )
        return max(steps) if step is None else step

    def _record(self, step: int) -> dict[str, Any]:
        return self._read(step, _METADATA, ocp.args.JsonRestore())

    def _read(self, step: int, item: str, arguments: Any) -> Any:
        try:
            found = self._manager.restore(
                step, args=ocp.args.Composite(**{item: arguments})
            )
        except Exception as error:  # whatever a damaged file makes a reader raise
            raise self._damaged(step, f"its {item} cannot be read") from error
        return found[item]

    def _damaged(self, step: int, how: str) -> CheckpointError:
        return CheckpointError(
            f"{self.directory / str(step)}: the checkpoint is damaged: {how}. Delete "
            "that directory to fall back to an older checkpoint."
        )


def check_unchanged(
    what: str,
    saved: Mapping[str, Any],
    current: Mapping[str, Any],
    *,
    may_change: Collection[str] = (),
) -> None:
    """Refuses to continue a run whose description has changed.

    Args:
      what: What is compared, for the message: "config", say.
      saved: The description in the checkpoint.
      current: The description now.
      may_change: Keys that do not matter.

    Raises:
      ResumeRefusedError: If any other key differs; all of them are listed.
    """
    saved, current = (
        {key: _plain(value) for key, value in side.items() if key not in may_change}
        for side in (saved, current)
    )
    differences = _differences(saved, current)
    if differences:
        raise ResumeRefusedError(
            f"The run to resume was made with another {what}:\n"
            + "\n".join(differences)
            + "\nResume with the same one, or start a new run in another directory."
        )


def installed_versions() -> dict[str, str]:
    """Returns the versions of what the numbers of a run depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **versions}


class _NewestAndBest(PreservationPolicy):
    """Keeps the newest checkpoints, and the one with the highest metric."""

    def __init__(self, keep: int):
        self._keep = keep

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        best = _best(
            {
                checkpoint.step: checkpoint.metrics and checkpoint.metrics[_METRIC]
                for checkpoint in checkpoints
            }
        )
        newest = sorted(steps)[-self._keep :]
        return [step in newest or step == best for step in steps]


def _best(metrics: Mapping[int, float | None]) -> int | None:
    known = {step: value for step, value in metrics.items() if value is not None}
    return max(known, key=lambda step: (known[step], -step), default=None)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None)
    )


def _plain(value: Any) -> Any:
    """Maps tuples to lists, as JSON does, so that both sides compare alike."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    lines = []
    for key in [*saved, *(key for key in current if key not in saved)]:
        sides = [
            repr(side[key]) if key in side else "absent" for side in (saved, current)
        ]
        if sides[0] != sides[1]:
            lines.append(f"  {key}: saved {sides[0]}, now {sides[1]}")
    return lines
