"""The remains of a run to resume: where its checkpoints are, what has changed."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from cnn_jax import checkpoint
from cnn_jax.checkpoint.steps import saved_steps
from cnn_jax.files import FileError, is_local, read_json
from cnn_jax.messages import warn
from cnn_jax.preprocessing import known_fields
from cnn_jax.training.config import RESUME_MAY_CHANGE, TrainConfig
from cnn_jax.training.devices.processes import is_main_process
from cnn_jax.training.run.directory.files import CONFIG, METRICS, RESULT
from cnn_jax.training.run.directory.identity import DESCRIPTIVE
from cnn_jax.training.run.directory.metrics import most_recent
from cnn_jax.training.run.early_stopping import RunProgress
from cnn_jax.training.run.images import PREPARATION_FIELDS

_HINTS = {
    "config": "--allow-changed FIELD ... continues with another value of a field",
    "dataset": "--allow-changed dataset continues with another dataset",
}


def read_about(directory: pathlib.Path) -> dict[str, Any] | None:
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


def resumed_place(
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
    recorded = None if about is None else absolute(about["config"]["checkpoint_dir"])
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


def absolute(place: str | None) -> str | None:
    """Returns a directory's name that means the same in every working directory."""
    if place is None or not is_local(place):
        return place
    return str(pathlib.Path(place).expanduser().absolute())


def check_metadata(directory: Any, saved: Mapping[str, Any]) -> None:
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


def with_recorded_preparation(
    config: TrainConfig, recorded: Mapping[str, Any]
) -> TrainConfig:
    """Returns the configuration with what a run's says of the preparation of images.

    Such fields may be none of the caller's: a run has the mean of its weights in its
    configuration, and these may be known for another by now, or for none.

    Args:
      config: The configuration of now, whose own fields stay.
      recorded: The configuration that the run was begun with.

    Raises:
      ValueError: If a value is invalid.
    """
    said = {
        name: recorded[name]
        for name in PREPARATION_FIELDS
        if recorded.get(name) is not None and getattr(config, name) is None
    }
    return dataclasses.replace(config, **known_fields(said))


def check_same_run(
    saved: Mapping[str, Any],
    description: Mapping[str, Any],
    config: TrainConfig,
    given: TrainConfig,
) -> None:
    """Compares the description of a run with the one that it was begun with.

    Args:
      saved: What a checkpoint, or `config.json`, says.
      description: `identity.describe` of now.
      config: The run's configuration.
      given: The configuration before it named what the run is of.

    Raises:
      ResumeRefusedError: If what differs is not in `config.allow_changed`.
    """
    saved = dict(saved)
    if "config" in saved:
        saved["config"] = TrainConfig.completed(saved["config"])
        for name in DESCRIPTIVE:
            if saved["config"][name] == getattr(given, name):
                saved["config"][name] = getattr(config, name)
    allowed = config.allow_changed
    may_change = {
        "config": (*RESUME_MAY_CHANGE, *allowed),
        "dataset": tuple(description["dataset"]) if "dataset" in allowed else (),
        "random": ("seed",) if "seed" in allowed else (),
    }
    checkpoint.check_unchanged(
        "optimizer, loss_fn or metrics of the caller's own",
        saved.get("own_parts", {}),
        description.get("own_parts", {}),
        may_change=allowed,
        hint="--allow-changed optimizer (loss_fn, metrics) continues with another",
    )
    for what, fields in may_change.items():
        # What an older version did not write cannot have changed.
        checkpoint.check_unchanged(
            what,
            saved.get(what, description[what]),
            description[what],
            may_change=fields,
            hint=_HINTS.get(what, ""),
        )


def report_versions(
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


def read_progress(directory: Any, found: checkpoint.Checkpoint) -> RunProgress:
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
        is_lost |= is_local(place) and not os.path.isdir(place)
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
        is_local(one + other) and os.path.realpath(one) == os.path.realpath(other)
    )


def _is_epoch(entry: Any) -> bool:
    return isinstance(entry, dict) and all(
        type(entry.get(name)) is int for name in ("epoch", "step")
    )


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)
