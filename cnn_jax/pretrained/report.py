"""The report of a conversion."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from cnn_jax.pretrained.channels import describe
from cnn_jax.pretrained.files import Provenance
from cnn_jax.pretrained.rules import Origin


@dataclasses.dataclass(frozen=True)
class ConversionReport:
    """The outcome of a conversion for every array.

    Attributes:
      source: Whose names the arrays had.
      loaded: The source's name -> path here.
      ignored: Names of arrays that the source has and the model does not need.
      cast: Path -> (dtype in the source, dtype here), where they differ.
      initialized: The paths that were initialised afresh, for another number of
        classes.
      provenance: Where the arrays come from.
      input_shape: (height, width, channels) of images that the variables are for.
      converted: Path -> (channels in the source, channels here), of first filters that
        were made into ones of another number of channels; `provenance.preprocessing`
        says what goes with these.
    """

    source: Origin
    loaded: Mapping[str, str]
    ignored: tuple[str, ...]
    cast: Mapping[str, tuple[str, str]]
    initialized: tuple[str, ...]
    provenance: Provenance
    input_shape: tuple[int, int, int]
    converted: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)

    def known_class_names(self, num_classes: int) -> tuple[str, ...] | None:
        """Returns the names of the classes if these are still those of the source.

        Args:
          num_classes: The model's number.
        """
        names = self.provenance.class_names
        if names is None or len(names) != num_classes or self.initialized:
            return None
        return names

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} arrays loaded, named as by {self.source}"]
        if self.provenance.part:
            lines.append(f"out of its {self.provenance.part}")
        if self.ignored:
            lines.append(f"{len(self.ignored)} ignored: {some(self.ignored)}")
        if self.cast:
            changes = sorted({f"{old} to {new}" for old, new in self.cast.values()})
            lines.append(f"{len(self.cast)} cast from {', '.join(changes)}")
        if self.converted:
            changes = sorted({describe(*pair) for pair in self.converted.values()})
            lines.append(f"first filters: {', '.join(changes)}")
        if self.initialized:
            lines.append(f"initialised afresh: {', '.join(self.initialized)}")
        if self.provenance.preprocessing:
            settings = self.provenance.preprocessing.items()
            lines.append(", ".join(f"{name} {_in_short(it)}" for name, it in settings))
        return "\n".join(lines)


def _in_short(value: object) -> str:
    """Returns a setting for a sentence: numbers without their last digits."""
    if isinstance(value, list | tuple):
        return " ".join(map(_in_short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def some(names: Iterable[str]) -> str:
    """Returns the first three names, for a message."""
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
