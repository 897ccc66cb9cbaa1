"""The directory of a run: its files, and checkpoints that it continues from exactly."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from cnn_jax import checkpoint, data, messages, trees
from cnn_jax.training.config import RESUME_MAY_CHANGE, TrainConfig
from cnn_jax.training.devices.processes import is_main_process
from cnn_jax.training.optimizers.optimizer import OWN_FIELDS
from cnn_jax.training.run.directory.files import RunFiles
from cnn_jax.training.run.directory.identity import DESCRIPTIVE
from cnn_jax.training.run.early_stopping import RunProgress
from cnn_jax.training.run.images import ImageFormat
from cnn_jax.training.run.keys import make_keys

_HINTS = {
    "config": "--allow-changed FIELD ... continues with another value of a field",
    "dataset": "--allow-changed dataset continues with another dataset",
}


class Store:
    """The run directory with its checkpoints.

    Of several processes all save and restore, and the main one writes all other files.

    Args:
      config: The run's configuration, with a `run_dir`.
      splits: The datasets by name, whose fingerprints a resumed run must find again.
      identity: The model, from `identity.identify_model`.
      images: The format of the model's images.
      own_parts: The caller's own parts, from `identity.identify_parts`.
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
        splits: Mapping[str, data.Source | data.Batches],
        identity: Mapping[str, Any],
        images: ImageFormat,
        own_parts: Mapping[str, Any],
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
            self._description = _describe(config, splits, identity, images, own_parts)
            self._check_description(config, given or config)
            self._saved_step: int | None = None
            self._stack = stack.pop_all()

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
        if newest:
            self._saved_step = found.step
        tree = trees.as_dtypes_of(template, found.tree)
        return found.step, tree, RunProgress(**found.metadata["record"])

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
        }
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
        self.files.open(self._description, step=step, epoch=len(progress.history))

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
        _report_versions(saved["versions"], self._description["versions"])


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


def _report_versions(saved: Mapping[str, str], current: Mapping[str, str]) -> None:
    changed = checkpoint.differences(saved, current)
    if changed and is_main_process():
        what = (
            "The run was made with other versions, whose programs may round otherwise:"
        )
        messages.warn("\n".join([what, *changed]))
