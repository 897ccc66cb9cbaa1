"""The description of a network in an exported file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from cnn_jax.preprocessing import Preprocessing

KIND = "cnn_jax.export"
"""The value that marks the metadata of an exported file."""

VERSION = 1
"""Of the files' layout."""


@dataclasses.dataclass(frozen=True)
class Description:
    """A network out of Python, as its user has to know it.

    Attributes:
      model: The model's name.
      num_classes: The number of logits.
      class_names: The names of the classes, or None if they are not known.
      preprocessing: How images become the network's input.
      normalized: Whether the input is what the recipe's last step gives, float32
        numbers with its mean subtracted and divided by its deviation. Otherwise it is
        uint8 pixels, and normalising them is the file's first operation.
      versions: Package -> version, where the file was written.
    """

    model: str
    num_classes: int
    class_names: tuple[str, ...] | None
    preprocessing: Preprocessing
    normalized: bool
    versions: Mapping[str, str]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of an image."""
        return self.preprocessing.input_shape

    @property
    def input_dtype(self) -> np.dtype[Any]:
        """float32 for normalised images, uint8 for pixels."""
        return np.dtype(np.float32 if self.normalized else np.uint8)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields by name, for JSON."""
        names = self.class_names
        return {
            "kind": KIND,
            "version": VERSION,
            "model": self.model,
            "num_classes": self.num_classes,
            "class_names": None if names is None else list(names),
            "preprocessing": self.preprocessing.to_dict(),
            "normalized": self.normalized,
            "input": f"{self.input_dtype} (batch, height, width, channels): "
            + ("normalised images" if self.normalized else "pixels from 0 to 255"),
            "output": "float32 (batch, classes): logits",
            "versions": dict(self.versions),
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Description:
        """Returns what `to_dict` gave, through JSON.

        Raises:
          KeyError, TypeError, ValueError: If it is anything else.
        """
        if saved["kind"] != KIND or saved["version"] != VERSION:
            raise ValueError(f"it is {saved['kind']} of version {saved['version']}")
        names = saved["class_names"]
        described = cls(
            model=_checked(saved["model"], str),
            num_classes=_checked(saved["num_classes"], int),
            class_names=None
            if names is None
            else tuple(_checked(name, str) for name in _checked(names, list)),
            preprocessing=Preprocessing.from_dict(
                _checked(saved["preprocessing"], dict)
            ),
            normalized=_checked(saved["normalized"], bool),
            versions={
                _checked(name, str): _checked(version, str)
                for name, version in _checked(saved["versions"], dict).items()
            },
        )
        if names is not None and len(names) != described.num_classes:
            raise ValueError(
                f"it names {len(names)} classes and has {described.num_classes}"
            )
        if not described.normalized and described.preprocessing.mean is None:
            raise ValueError("it normalises pixels and does not say by which mean")
        return described


def _checked(value: Any, kind: type) -> Any:
    # Not `isinstance`: True is no number of classes.
    if type(value) is not kind:
        raise TypeError(f"got {str(value)[:100]!r}, expected {kind.__name__}")
    return value
