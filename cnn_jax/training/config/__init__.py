"""The configuration of a training run, in one frozen dataclass.

`TrainConfig` is flat, so that every field is an option of one word; its parts are
files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from cnn_jax.ranges import as_annotated, declared, has_type, problem, shown
from cnn_jax.training.config.data import DataConfig
from cnn_jax.training.config.optimizer import OptimizerConfig
from cnn_jax.training.config.parallel import ParallelConfig
from cnn_jax.training.config.regularization import RegularizationConfig
from cnn_jax.training.config.requirements import Requirement
from cnn_jax.training.config.run import RunConfig
from cnn_jax.training.config.transfer import TransferConfig

__all__ = ["RESUME_MAY_CHANGE", "TrainConfig"]

RESUME_MAY_CHANGE = (
    "data_dir",
    "num_workers",
    "max_bad_images",
    "run_dir",
    "resume",
    "allow_changed",
    "non_finite",
    "maximum_skipped_steps",
    "checkpoint_every_steps",
    "checkpoint_dir",
    "keep_checkpoints",
    "keep_checkpoint_every_steps",
    "compilation_cache",
    "keep_memory",
    "profile_steps",
    "parallel",
    "mesh",
    "sharding_rules",
    "coordinator_address",
    "num_processes",
    "process_id",
)
"""Fields that may differ when a run is resumed: they do not touch its numbers, but for
the order in which devices sum them."""


# Python collects the fields of bases from the last to the first.
@dataclasses.dataclass(frozen=True)
class TrainConfig(
    ParallelConfig,
    RunConfig,
    TransferConfig,
    RegularizationConfig,
    OptimizerConfig,
    DataConfig,
):
    """Everything that decides a run's numbers, and where its files go."""

    def __post_init__(self) -> None:
        expected = declared(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # A seed out of np.arange is one number as well, but not to JSON, and sums
            # in a narrow dtype of NumPy wrap around.
            if isinstance(value, np.generic):
                object.__setattr__(self, field.name, value.item())
            elif isinstance(value, list):
                value = as_annotated(value, expected[field.name])
                object.__setattr__(self, field.name, value)

    def validate(self) -> None:
        """Checks every field: its type, its range, and what it requires of others.

        Raises:
          ValueError: Listing all fields with an invalid value.
        """
        expected = declared(type(self))
        values = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        problems = [
            (name, text)
            for name, value in values.items()
            if (text := problem(value, expected[name])) is not None
        ]
        # Fields can be compared with each other once all are what they should be.
        if all(has_type(value, expected[name]) for name, value in values.items()):
            found = {name for name, _ in problems}
            problems += [
                (name, text)
                for name, holds, text in self._requirements()
                if not holds and name not in found
            ]
        if problems:
            lines = [
                f"  {name}: got {shown(values[name])}, expected {text}"
                for name, text in problems
            ]
            raise ValueError("The configuration is invalid:\n" + "\n".join(lines))

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as a mapping that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def completed(cls, saved: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what `to_dict` gave to an older version, with the fields of this one.

        Fields that it did not have yet are at their defaults; those that this one no
        longer has are kept, since nobody knows what they did.

        Args:
          saved: A mapping from `to_dict`, perhaps through JSON.
        """
        return {**cls().to_dict(), **saved}

    def _requirements(self) -> Iterable[Requirement]:
        yield from self._data_requirements()
        yield from self._optimizer_requirements()
        yield from self._transfer_requirements()
        yield from self._run_requirements()
        yield from self._parallel_requirements()
        parts = max(self.accumulate_steps, 1)
        yield (
            "accumulate_steps",
            self.batch_size % parts == 0,
            f"a divisor of batch_size, {self.batch_size}",
        )
