"""The directory of a run: its files, and checkpoints that it continues from exactly."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from cnn_jax import checkpoint, data, trees
from cnn_jax.training.config import RESUME_MAY_CHANGE, TrainConfig
from cnn_jax.training.devices.processes import is_main_process
from cnn_jax.training.run.directory.files import RunFiles
from cnn_jax.training.run.directory.identity import DESCRIPTIVE
from cnn_jax.training.run.feeds import channel_statistics, image_shape
from cnn_jax.training.run.keys import make_keys

_HINTS = {
    "config": "--allow-changed FIELD ... continues with another value of a field",
    "dataset": "--allow-changed dataset continues with another dataset",
}


@dataclasses.dataclass
class Record:
    """What a run remembers beside its arrays; JSON in every checkpoint.

    Attributes:
      history: A record for each epoch that was evaluated.
      trained: What is known of an epoch whose steps are over and whose evaluation is
        not; a run that was stopped in between evaluates it when it is resumed.
      best_epoch: The epoch with the highest validation accuracy, from 1; 0 for none.
      best_step: The steps at its end.
      best_accuracy: That accuracy.
      target: The accuracy that the next gain is measured from: with a minimum gain, a
        best epoch that gained too little does not move it.
      epochs_without_gain: Epochs since there was one.
      stopped_early: Whether they were too many.
      train_seconds: Of all training steps so far.
      epoch_seconds: Of those of the epoch in progress.
    """

    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    trained: dict[str, float] | None = None
    best_epoch: int = 0
    best_step: int = 0
    best_accuracy: float = -1.0
    target: float = -1.0
    epochs_without_gain: int = 0
    stopped_early: bool = False
    train_seconds: float = 0.0
    epoch_seconds: float = 0.0


class Store:
    """The run directory with its checkpoints.

    Of several processes all save and restore, and the main one writes all other files.

    Args:
      config: The run's configuration, with a `run_dir`.
      splits: The datasets by name, whose fingerprints a resumed run must find again.
      identity: What the model is, from `identity.identify_model`.
      given: The configuration before it named what the run is of, as older runs have
        it; None for the same.

    Raises:
      FileExistsError: If the directory, or that of the checkpoints, holds a run and
        `config.resume` is False.
      ResumeRefusedError: If what it holds was made with another configuration or
        dataset, and `config.allow_changed` does not name what differs.
    """

    def __init__(
        self,
        config: TrainConfig,
        splits: Mapping[str, data.Source],
        identity: Mapping[str, Any],
        given: TrainConfig | None = None,
    ):
        assert config.run_dir is not None  # see above
        with contextlib.ExitStack() as stack:
            self.files: RunFiles = stack.enter_context(
                RunFiles(config.run_dir, resume=config.resume, writes=is_main_process())
            )
            self.checkpoints: checkpoint.Checkpointer = stack.enter_context(
                checkpoint.Checkpointer(
                    config.checkpoint_dir or self.files.checkpoints,
                    keep=config.keep_checkpoints,
                    keep_every=config.keep_checkpoint_every_steps,
                )
            )
            if not config.resume and self.checkpoints.latest_step is not None:
                raise FileExistsError(
                    f"{self.checkpoints.directory} already holds a run's checkpoints. "
                    "Choose another directory (--checkpoint-dir)."
                )
            self._description = _describe(config, splits, identity)
            self._check_description(config, given or config)
            self._saved_step: int | None = None
            self._stack = stack.pop_all()

    def restore(
        self, template: Any, step: int | None = None
    ) -> tuple[int, Any, Record]:
        """Returns step, carry and record of a checkpoint, the newest sound by default.

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
        if newest:
            self._saved_step = found.step
        tree = trees.as_dtypes_of(template, found.tree)
        return found.step, tree, Record(**found.metadata["record"])

    def save(
        self, step: int, carry: Any, record: Record, position: Mapping[str, int]
    ) -> None:
        """Saves a checkpoint; at the end of an epoch it counts for being the best.

        Of a step that is saved already only the record is saved again: the arrays are
        the same.
        """
        metadata = {
            **self._description,
            "position": dict(position),
            "record": dataclasses.asdict(record),
        }
        accuracy = None
        if record.history and record.history[-1]["step"] == step:
            accuracy = record.history[-1].get("validation_accuracy")
        if step == self._saved_step:
            self.checkpoints.amend(step, metadata, metric=accuracy)
        else:
            self.checkpoints.save(step, carry, metadata, metric=accuracy)
            self._saved_step = step

    def open(self, step: int, record: Record) -> None:
        """Starts writing the run's files behind a step."""
        self.files.open(self._description, step=step, epoch=len(record.history))

    def close(self) -> None:
        """Waits for every save; raises what went wrong with the last one."""
        self._stack.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)

    def _check_description(self, config: TrainConfig, given: TrainConfig) -> None:
        try:
            saved = dict(self.checkpoints.metadata())
        except FileNotFoundError:
            return
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
        for what, fields in may_change.items():
            # What an older version did not write cannot have changed.
            checkpoint.check_unchanged(
                what,
                saved.get(what, self._description[what]),
                self._description[what],
                may_change=fields,
                hint=_HINTS.get(what, ""),
            )
        _tell_of_versions(saved["versions"], self._description["versions"])


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
    splits: Mapping[str, data.Source],
    identity: Mapping[str, Any],
) -> dict[str, Any]:
    key, train = make_keys(config.seed).steps, splits["train"]
    mean, std = channel_statistics(config, train)
    return {
        "config": config.to_dict(),
        "model": dict(identity),
        "dataset": {name: split.fingerprint for name, split in splits.items()},
        # The same seed gives other keys under another generator.
        "random": {
            "generator": str(jax.random.key_impl(key)),
            "seed": np.asarray(jax.random.key_data(key)).tolist(),
        },
        # What the weights expect of an image, for whoever classifies with them.
        "images": {
            "class_names": list(train.class_names),
            "mean": list(mean),
            "std": list(std),
            "input_shape": list(image_shape(config, train)),
        },
        "versions": checkpoint.installed_versions(),
    }


def _tell_of_versions(saved: Mapping[str, str], current: Mapping[str, str]) -> None:
    changed = checkpoint.differences(saved, current)
    if changed and is_main_process():
        print(
            "The run was made with other versions, whose programs may round otherwise:",
            *changed,
            sep="\n",
            file=sys.stderr,
            flush=True,
        )
