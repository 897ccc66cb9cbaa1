"""The directory of a run: its files, and checkpoints that it continues from exactly."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pathlib
import secrets
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cnn_jax import checkpoint, data, trees
from cnn_jax.checkpoint.steps import saved_steps
from cnn_jax.files import FileError, read_json
from cnn_jax.messages import warn
from cnn_jax.training.config import RESUME_MAY_CHANGE, TrainConfig
from cnn_jax.training.devices.processes import gather_texts, is_main_process
from cnn_jax.training.optimizers.optimizer import OWN_FIELDS
from cnn_jax.training.run.directory.environment import (
    changed_environment,
    check_environment,
    numeric_environment,
)
from cnn_jax.training.run.directory.files import CONFIG, METRICS, RESULT, RunFiles
from cnn_jax.training.run.directory.identity import DESCRIPTIVE
from cnn_jax.training.run.directory.metrics import Written, most_recent
from cnn_jax.training.run.early_stopping import RunProgress
from cnn_jax.training.run.images import ImageFormat
from cnn_jax.training.run.keys import make_keys
from cnn_jax.training.run.result import FitResult

_HINTS = {
    "config": "--allow-changed FIELD ... continues with another value of a field",
    "dataset": "--allow-changed dataset continues with another dataset",
}

_OF_TRAINING: Mapping[str, Any] = {
    "bad_images": list,
    "compile_seconds": float,
    "step_seconds_median": float,
    "step_seconds_p90": float,
    "step_seconds_p99": float,
    "waiting_share": float,
    "peak_memory_bytes": int,
}
"""Fields of a result that only the process knows that trained."""


class Store:
    """The run directory with its checkpoints.

    Of several processes all save and restore, and the main one writes all other files.

    A run that is resumed is the one that `config.json` describes: its checkpoints are
    where that says, unless `config.checkpoint_dir` names another place that holds them.

    Args:
      config: The run's configuration, with a `run_dir`.
      splits: The datasets by name, whose fingerprints a resumed run must find again.
      identity: The model, from `identity.identify_model`.
      images: The format of the model's images.
      own_parts: The caller's own parts, from `identity.identify_parts`.
      mesh: The devices.
      given: The configuration before it named what the run is of, as older runs have
        it; None for the same.

    Attributes:
      environment_changes: `{"step", "changed"}` for each time that the run was resumed
        in another environment, `changed` being part -> [before, since].

    Raises:
      FileExistsError: If the directory, or that of the checkpoints, holds a run and
        `config.resume` is False.
      FileError: If what a run to resume left there was not written by a run.
      ResumeRefusedError: If what it holds was made with another configuration or
        dataset or in another environment, and `config.allow_changed` does not name what
        differs; if checkpoints that there were are not found.
    """

    def __init__(
        self,
        config: TrainConfig,
        splits: Mapping[str, data.Source | data.Batches],
        identity: Mapping[str, Any],
        images: ImageFormat,
        own_parts: Mapping[str, Any],
        mesh: Mesh,
        given: TrainConfig | None = None,
    ):
        assert config.run_dir is not None  # see above
        self.environment_changes: list[dict[str, Any]] = []
        self._new_change: dict[str, Any] | None = None
        self._written: Written | None = None
        with contextlib.ExitStack() as stack:
            self.files: RunFiles = stack.enter_context(
                RunFiles(config.run_dir, resume=config.resume, writes=is_main_process())
            )
            about = _read_about(self.files.directory) if config.resume else None
            place = self._find_checkpoints(config, about)
            with self.files.sharing_lock():
                self.checkpoints: checkpoint.Checkpointer = stack.enter_context(
                    checkpoint.Checkpointer(
                        place or self.files.checkpoints,
                        keep=config.keep_checkpoints,
                        keep_every=config.keep_checkpoint_every_steps,
                    )
                )
            config = dataclasses.replace(config, checkpoint_dir=place)
            if not config.resume and saved_steps(self.checkpoints.directory):
                raise FileExistsError(
                    f"{self.checkpoints.directory} already holds a run's checkpoints. "
                    "Choose another directory (--checkpoint-dir)."
                )
            self._environment = numeric_environment(mesh.devices.flat)
            self._description = _describe(config, splits, identity, images, own_parts)
            self._description["environment"] = self._environment
            self._check_description(config, given or config, about)
            self._saved_step: int | None = None
            self._stack = stack.pop_all()

    def _find_checkpoints(
        self, config: TrainConfig, about: Mapping[str, Any] | None
    ) -> str | None:
        """Returns the directory of the checkpoints; None for that in the run's own.

        Raises:
          ResumeRefusedError: If there is a run to resume and none of its checkpoints.
        """
        place = _absolute(config.checkpoint_dir)
        if is_main_process() and config.resume:
            place = _resumed_place(self.files.directory, place, about)
        # The others may not see the main one's run directory.
        return gather_texts(place or "")[0] or None

    def restore(
        self, template: Any, step: int | None = None
    ) -> tuple[int, Any, RunProgress]:
        """Returns step, carry and progress of a checkpoint, by default the newest.

        Raises:
          FileNotFoundError: If there is none.
        """
        newest = step is None
        as_saved = template
        if any(map(trees.is_narrow, jax.tree.leaves(template))):
            # With narrow parameters, an older version kept narrow averages and moments.
            description = self.checkpoints.describe(step)
            as_saved = _as_saved(template, description.leaves)
            step = description.step
        found = self.checkpoints.restore(as_saved, step=step)
        progress = _read_progress(self.checkpoints.directory, found)
        if newest:
            self._saved_step = found.step
            self._written = Written.read(found.metadata.get("metrics"))
            self._note_environment(found.step, found.metadata)
        return found.step, trees.as_dtypes_of(template, found.tree), progress

    def save(
        self, step: int, carry: Any, progress: RunProgress, position: Mapping[str, int]
    ) -> None:
        """Saves a checkpoint; at the end of an epoch it counts for being the best.

        Of a step that is saved already only the progress is saved again: the arrays are
        the same.
        """
        metadata = {
            **self._description,
            "position": dict(position),
            "record": dataclasses.asdict(progress),
            "environment_changes": self.environment_changes,
        }
        if is_main_process():
            metadata["metrics"] = dataclasses.asdict(self.files.written)
        accuracy = None
        if progress.history and progress.history[-1]["step"] == step:
            accuracy = progress.history[-1].get("validation_accuracy")
        if step == self._saved_step:
            self.checkpoints.amend(step, metadata, metric=accuracy)
        else:
            self.checkpoints.save(step, carry, metadata, metric=accuracy)
            self._saved_step = step

    def open(self, step: int, progress: RunProgress) -> None:
        """Starts writing the run's files behind a step."""
        known = self.environment_changes
        self.files.open(
            self._description,
            step=step,
            epoch=len(progress.history),
            history=progress.history,
            written=self._written,
            changes=known[:-1] if self._new_change else known,
            new_change=self._new_change,
        )

    def conclude(self, result: FitResult, *, has_trained: bool) -> FitResult:
        """Writes `result.json`, and returns the result as it is there.

        Args:
          result: The result, as this process knows it.
          has_trained: Whether this process trained a step. If not, what only the
            process knows that trained is what the file says.
        """
        result = dataclasses.replace(
            result, environment_changes=self.environment_changes
        )
        if not has_trained and is_main_process():
            result = dataclasses.replace(result, **self._known_before(result))
        self.files.write_json(RESULT, result.summary())
        return result

    def _known_before(self, result: FitResult) -> dict[str, Any]:
        try:
            before = read_json(self.files.directory / RESULT)
        except FileNotFoundError:
            return {}
        except FileError as error:
            self.files.set_result_aside(f"cannot be read: {error}")
            return {}
        if before.get("state_digest") != result.state_digest:
            return {}
        known = {}
        for name, kind in _OF_TRAINING.items():
            value = before.get(name)
            if kind is float and value is None and name in before:
                value = math.nan  # JSON has none
            if isinstance(value, kind | int if kind is float else kind):
                known[name] = value
        return known

    def close(self) -> None:
        """Waits for every save; raises what went wrong with the last one."""
        self._stack.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)

    def _check_description(
        self, config: TrainConfig, given: TrainConfig, about: Mapping[str, Any] | None
    ) -> None:
        """Compares the run with what it was, by its newest checkpoint if there is one.

        A run that was not saved yet starts from scratch, in whatever environment.
        """
        own = (about or {}).get("run")
        try:
            saved = dict(self.checkpoints.metadata())
        except FileNotFoundError:
            self._description["run"] = own or secrets.token_hex(8)
            if about is None:
                return
            saved, has_checkpoint = dict(about), False
        else:
            has_checkpoint = True
            _check_kinds(self.checkpoints.directory, saved)
            theirs = saved.get("run")
            if None not in (own, theirs) and own != theirs:
                raise checkpoint.ResumeRefusedError(
                    f"{self.checkpoints.directory}: got the checkpoints of another "
                    f"run, expected those of the run in {self.files.directory}."
                )
            self._description["run"] = theirs or own or secrets.token_hex(8)
        if "config" in saved:
            saved["config"] = TrainConfig.completed(saved["config"])
            for name in DESCRIPTIVE:
                if saved["config"][name] == getattr(given, name):
                    saved["config"][name] = getattr(config, name)
        allowed = config.allow_changed
        may_change = {
            "config": (*RESUME_MAY_CHANGE, *allowed),
            "dataset": tuple(self._description["dataset"])
            if "dataset" in allowed
            else (),
            "random": ("seed",) if "seed" in allowed else (),
        }
        checkpoint.check_unchanged(
            "optimizer, loss_fn or metrics of the caller's own",
            saved.get("own_parts", {}),
            self._description.get("own_parts", {}),
            may_change=allowed,
            hint="--allow-changed optimizer (loss_fn, metrics) continues with another",
        )
        for what, fields in may_change.items():
            # What an older version did not write cannot have changed.
            checkpoint.check_unchanged(
                what,
                saved.get(what, self._description[what]),
                self._description[what],
                may_change=fields,
                hint=_HINTS.get(what, ""),
            )
        if has_checkpoint:
            before = saved.get("environment", {})
            check_environment(before, self._environment, allowed)
            _report_versions(
                saved["versions"], self._description["versions"], compared=before
            )

    def _note_environment(self, step: int, metadata: Mapping[str, Any]) -> None:
        """Keeps what has changed, before and now, and says what has now."""
        self.environment_changes = list(metadata.get("environment_changes", []))
        changed = changed_environment(
            metadata.get("environment", {}), self._environment
        )
        if not changed:
            return
        self._new_change = {"step": step, "changed": changed}
        self.environment_changes.append(self._new_change)
        if is_main_process():
            lines = (
                f"\n  {part}: before {before!r}, now {now!r}"
                for part, (before, now) in changed.items()
            )
            warn(
                "The run goes on in another environment, and its last bits may "
                f"differ:{''.join(lines)}"
            )


def _read_about(directory: pathlib.Path) -> dict[str, Any] | None:
    """Returns what a run directory's `config.json` says; None if there is none.

    Raises:
      FileError: If no training run wrote it.
    """
    try:
        about = read_json(directory / CONFIG)
    except FileNotFoundError:
        return None
    config = about.get("config")
    if (
        not isinstance(config, Mapping)
        or "method" in about
        or not isinstance(config.get("checkpoint_dir"), str | None)
        or not isinstance(about.get("run"), str | None)
        or not all(
            isinstance(about.get(name, {}), Mapping)
            for name in ("dataset", "random", "own_parts")
        )
    ):
        raise FileError(
            f"{directory / CONFIG}: got what no training run wrote, expected the "
            "configuration of the run to resume."
        )
    return about


def _resumed_place(
    directory: pathlib.Path, place: str | None, about: Mapping[str, Any] | None
) -> str | None:
    """Returns where the checkpoints are of a run to resume.

    Args:
      directory: The run directory.
      place: Where they are said to be; None for where the run says.
      about: What its `config.json` says; None if there is none.

    Raises:
      ResumeRefusedError: If there is a run, but no checkpoint of it where there must
        be.
    """
    own = str(directory / "checkpoints")
    recorded = None if about is None else _absolute(about["config"]["checkpoint_dir"])
    if place is None or about is None or _same_place(place, recorded or own):
        place = recorded if about is not None else place
        if not saved_steps(place or own):
            _check_never_saved(directory, place or own, about)
        return place
    if not saved_steps(place):
        raise checkpoint.ResumeRefusedError(
            f"{place}: got no checkpoint, expected those of the run in {directory}, "
            f"which saves into {recorded or own}. Resume it without --checkpoint-dir, "
            "or move its checkpoints first."
        )
    return place


def _check_never_saved(
    directory: pathlib.Path, place: str, about: Mapping[str, Any] | None
) -> None:
    """Checks that a run without checkpoints was killed before it saved one.

    It may then start from scratch. A save waits for the one before, so that lines
    behind the second are of a run that had a checkpoint.

    Raises:
      ResumeRefusedError: If its checkpoints must have been lost, or moved.
    """
    reached = most_recent(directory / METRICS)
    has_result = (directory / RESULT).exists()
    is_lost = has_result
    if about is None:
        is_lost |= reached["step"] > 0
    else:
        every = about["config"].get("checkpoint_every_steps", 0)
        is_lost |= "://" not in place and not os.path.isdir(place)
        if isinstance(every, int) and every > 0:
            is_lost |= reached["step"] > 2 * every
        is_lost |= reached["epoch"] > 2 and not every
    if not is_lost:
        return
    there = "a result" if has_result else f"metrics up to step {reached['step']}"
    raise checkpoint.ResumeRefusedError(
        f"{directory}: got a run with {there}, whose checkpoints are not in {place}. "
        "If they were moved, say where they are (--checkpoint-dir); if they are lost, "
        "start a new run in another directory (--run-dir)."
    )


def _same_place(one: str, other: str) -> bool:
    return one == other or (
        "://" not in one + other and os.path.realpath(one) == os.path.realpath(other)
    )


def _absolute(place: str | None) -> str | None:
    """Returns a directory's name that means the same in every working directory."""
    if place is None or "://" in place:
        return place
    return str(pathlib.Path(place).expanduser().absolute())


def _read_progress(directory: Any, found: checkpoint.Checkpoint) -> RunProgress:
    """Returns the progress in a checkpoint.

    Raises:
      CheckpointError: If a newer version wrote it.
    """
    record = found.metadata["record"]
    known = {field.name for field in dataclasses.fields(RunProgress)}
    unknown = sorted(set(record) - known)
    if unknown:
        raise checkpoint.CheckpointError(
            f"{directory}/{found.step}: got a checkpoint with "
            f"{', '.join(map(repr, unknown))} in its record, which this version does "
            "not know. Install the version of cnn_jax that made it, or newer."
        )
    progress = RunProgress(**record)
    for name, default in dataclasses.asdict(RunProgress()).items():
        value, kind = getattr(progress, name), type(default)
        if name == "trained":
            is_sound = isinstance(value, dict | None)
        elif name == "history":
            is_sound = isinstance(value, list) and all(map(_is_epoch, value))
        else:
            is_sound = isinstance(value, int | float if kind is float else kind)
        if not is_sound:
            raise checkpoint.CheckpointError(
                f"{directory}/{found.step}: got {name} {value!r} in the record of a "
                "checkpoint, which no run wrote."
            )
    return progress


def _is_epoch(entry: Any) -> bool:
    return isinstance(entry, dict) and all(
        type(entry.get(name)) is int for name in ("epoch", "step")
    )


def _check_kinds(directory: Any, saved: Mapping[str, Any]) -> None:
    """Checks that a checkpoint's metadata are of the kinds that a run writes.

    Raises:
      CheckpointError: If they are not.
    """
    mappings = ("config", "dataset", "random", "own_parts", "environment")
    changes = saved.get("environment_changes", [])
    problems = [name for name in mappings if not _is_mapping(saved.get(name, {}))]
    problems += [
        name for name in ("versions", "record") if not _is_mapping(saved.get(name))
    ]
    if not isinstance(changes, list) or not all(map(_is_mapping, changes)):
        problems.append("environment_changes")
    if not isinstance(saved.get("run"), str | None):
        problems.append("run")
    if problems:
        raise checkpoint.CheckpointError(
            f"{directory}: got a checkpoint whose {', '.join(problems)} no training "
            "run wrote, expected one of a run to resume."
        )


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _as_saved(template: Any, leaves: Mapping[str, str]) -> Any:
    """Returns the template with what a checkpoint has in a narrower float as it is."""

    def saved(path: str, leaf: jax.Array) -> Any:
        name = leaves.get(path, str(leaf.dtype)).partition("[")[0]
        narrower = jax.ShapeDtypeStruct(leaf.shape, name, sharding=leaf.sharding)
        is_saved_narrow = trees.is_narrow(narrower) and leaf.dtype == np.float32
        return narrower if is_saved_narrow else leaf

    return jax.tree.unflatten(
        jax.tree.structure(template),
        [saved(path, leaf) for path, leaf in trees.named_leaves(template).items()],
    )


def _describe(
    config: TrainConfig,
    splits: Mapping[str, data.Source | data.Batches],
    identity: Mapping[str, Any],
    images: ImageFormat,
    own_parts: Mapping[str, Any],
) -> dict[str, Any]:
    key, train = make_keys(config.seed).steps, splits["train"]
    described = config.to_dict()
    if "optimizer" in own_parts:
        described |= dict.fromkeys(OWN_FIELDS)
    return {
        "config": described,
        "model": dict(identity),
        **({"own_parts": dict(own_parts)} if own_parts else {}),
        "dataset": {name: split.fingerprint for name, split in splits.items()},
        # The same seed gives other keys under another generator.
        "random": {
            "generator": str(jax.random.key_impl(key)),
            "seed": np.asarray(jax.random.key_data(key)).tolist(),
        },
        # What the weights expect of an image, for whoever classifies with them.
        "images": {
            "class_names": list(train.class_names),
            "mean": None if images.mean is None else list(images.mean),
            "std": None if images.std is None else list(images.std),
            "input_shape": list(images.shape),
            "crop_fraction": images.crop_fraction,
        },
        "versions": checkpoint.installed_versions(),
    }


def _report_versions(
    saved: Mapping[str, str], current: Mapping[str, str], compared: Mapping[str, Any]
) -> None:
    """Says which versions differ, but for those that were compared already."""
    saved, current = (
        {name: side[name] for name in side if name not in compared}
        for side in (saved, current)
    )
    changed = checkpoint.differences(saved, current)
    if changed and is_main_process():
        lines = "".join(f"\n{line}" for line in changed)
        warn(
            "The run was made with other versions, whose programs may round "
            f"otherwise:{lines}"
        )
