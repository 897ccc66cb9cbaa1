"""Presets: the fields of a recipe that depend on the machine, as data."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from cnn_jax.training.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Preset:
    """Changes of a configuration for one kind of machine.

    Attributes:
      description: The machine, for people: chips, hosts, images a chip.
      fields: Field of `TrainConfig` -> value.
      topology: The TPU slice that programs can be compiled for without it, such as
        `"v5e:2x4"`; None if it is no TPU.

    Raises:
      ValueError: If a field is not one of `TrainConfig`.
    """

    description: str
    fields: Mapping[str, Any]
    topology: str | None = None

    def __post_init__(self) -> None:
        known = {field.name for field in dataclasses.fields(TrainConfig)}
        unknown = sorted(set(self.fields) - known)
        if unknown:
            raise ValueError(
                f"fields: got {unknown} in a preset ({self.description}), expected "
                "fields of TrainConfig."
            )

    def applied_to(self, config: TrainConfig) -> TrainConfig:
        """Returns a configuration with the preset's fields in place of its own."""
        return dataclasses.replace(config, **self.fields)

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value}" for name, value in self.fields.items())
        return f"{self.description}: {values}"


def find_preset(presets: Mapping[str, Preset], name: str) -> Preset:
    """Returns a preset by its name.

    Raises:
      ValueError: If there is none; the message names the nearest.
    """
    if name in presets:
        return presets[name]
    near = difflib.get_close_matches(name, presets, n=1, cutoff=0.5)
    raise ValueError(
        f"preset: got {name!r}, expected one of {', '.join(presets)}."
        + (f" Did you mean {near[0]!r}?" if near else "")
    )
