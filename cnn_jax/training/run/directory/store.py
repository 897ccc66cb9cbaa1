"""The directory of a run: its files, and checkpoints that it continues from exactly."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
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
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.devices.processes import gather_texts, is_main_process
from cnn_jax.training.run.directory.environment import (
    changed_environment,
    check_environment,
    numeric_environment,
)
from cnn_jax.training.run.directory.files import RESULT, RunFiles
from cnn_jax.training.run.directory.identity import describe
from cnn_jax.training.run.directory.metrics import Written
from cnn_jax.training.run.directory.resuming import (
    absolute,
    check_metadata,
    check_same_run,
    read_about,
    read_progress,
    report_versions,
    resumed_place,
    with_recorded_preparation,
)
from cnn_jax.training.run.early_stopping import RunProgress
from cnn_jax.training.run.images import ImageFormat, recorded_format
from cnn_jax.training.run.result import FitResult

_OF_TRAINING: Mapping[str, Any] = {
    "bad_images": list,
    "compile_seconds": float,
    "step_seconds_median": float,
    "step_seconds_p90": float,
    "step_seconds_p99": float,
    "waiting_share": float,
    "peak_memory_bytes": int,
    "keeps_memory": bool,
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
      images: The format of the model's images, if the run is not resumed.
      own_parts: The caller's own parts, from `identity.identify_parts`.
      mesh: The devices.
      given: The configuration before it named what the run is of, as older runs have
        it; None for the same.

    Attributes:
      images: The format of the model's images: of a resumed run, as it recorded it.
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
            about = read_about(self.files.directory) if config.resume else None
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
            recorded = self._recorded(about) if config.resume else None
            if recorded is not None:
                config, images = self._as_recorded(
                    config, images, recorded, splits["train"]
                )
            self.images: ImageFormat = images
            self._environment = numeric_environment(mesh.devices.flat)
            self._description = describe(
                config, splits, identity, self.images, own_parts
            )
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
        place = absolute(config.checkpoint_dir)
        if is_main_process() and config.resume:
            place = resumed_place(self.files.directory, place, about)
        # The others may not see the main one's run directory.
        return gather_texts(place or "")[0] or None

    def _recorded(self, about: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Returns what the newest checkpoint says of a run to resume.

        Of a run that was not saved yet, it is what its `config.json` says; None if
        there is none.
        """
        # The others may not see the main one's run directory.
        about = json.loads(gather_texts(json.dumps(about))[0])
        try:
            saved = self.checkpoints.metadata()
        except FileNotFoundError:
            return about
        check_metadata(self.checkpoints.directory, saved)
        return saved

    def _as_recorded(
        self,
        config: TrainConfig,
        images: ImageFormat,
        recorded: Mapping[str, Any],
        train: data.Source | data.Batches,
    ) -> tuple[TrainConfig, ImageFormat]:
        """Returns configuration and format of images of a run that is resumed."""
        try:
            config = with_recorded_preparation(config, recorded.get("config", {}))
            said = recorded.get("images", {})
            return config, recorded_format(images, said, config, train)
        except (AttributeError, TypeError, ValueError) as error:
            raise checkpoint.CheckpointError(
                f"{self.files.directory}: got a run with a record of its images that "
                f"no training run wrote ({error}), expected that of a run to resume."
            ) from error

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
        progress = read_progress(self.checkpoints.directory, found)
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
            check_metadata(self.checkpoints.directory, saved)
            theirs = saved.get("run")
            if None not in (own, theirs) and own != theirs:
                raise checkpoint.ResumeRefusedError(
                    f"{self.checkpoints.directory}: got the checkpoints of another "
                    f"run, expected those of the run in {self.files.directory}."
                )
            self._description["run"] = theirs or own or secrets.token_hex(8)
        check_same_run(saved, self._description, config, given)
        if has_checkpoint:
            before = saved.get("environment", {})
            check_environment(before, self._environment, config.allow_changed)
            report_versions(
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
