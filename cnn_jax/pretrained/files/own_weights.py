"""Metadata of this project's weights, whatever kind of file they are stored in.

`cnn-jax convert` writes these metadata into a directory, a `.safetensors` or a `.npz`
file; a training run's checkpoints say the same in other words (`own_checkpoints.py`).
A file may come from anybody, so that what it says is checked before it is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from cnn_jax.files import FileError, reading
from cnn_jax.models.fields import MAX_CLASSES
from cnn_jax.preprocessing import known_fields
from cnn_jax.pretrained.files.stored import FLOATS, Provenance

KIND = "cnn_jax.pretrained"
"""The value that marks the metadata of converted weights."""

METADATA_NAME = "cnn_jax"
"""The name under which a file of arrays holds the metadata, as JSON."""

HEAD = r"params/(.*/)?head/(kernel|bias)"
"""The paths that depend on the number of classes."""

MAX_METADATA = 2**23
"""The longest metadata that are read, in bytes: more than any model's names fill."""

_MAX_FIELD = 2**20


@dataclasses.dataclass(frozen=True)
class OwnWeights:
    """The model that a file of this project's weights is for.

    Attributes:
      model: The model's name, or None if it is not said.
      fields: The fields that the model was made with beside its name's, as
        `create_model` takes them.
      own_model: What the model of a run was that cannot be made by a name and fields:
        a class of the caller's own, or a registered model with a field that no file can
        hold, such as an activation function; None for any other.
      num_classes: How many classes the weights are for, or None if it is not said.
      dtype: The dtype that the model computed in, or None if it is not said.
      param_dtype: The dtype of all its parameters; float32 if they have several.
      class_names: The names of the classes, or None if they are not said.
      preprocessing: See `Provenance`.
      is_run: Whether a training run wrote them.
    """

    model: str | None = None
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    own_model: str | None = None
    num_classes: int | None = None
    dtype: str | None = None
    param_dtype: str = "float32"
    class_names: tuple[str, ...] | None = None
    preprocessing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    is_run: bool = False

    def require_name(self, source: object) -> None:
        """Raises ValueError if the model cannot be made by a name and fields.

        Args:
          source: What was described.
        """
        if self.own_model is not None:
            raise ValueError(
                f"{source}: its model is {self.own_model}, which no name of `cnn-jax "
                "models` stands for; make it in Python and pass it to load_pretrained."
            )

    def require_plain(self, source: object) -> None:
        """Raises ValueError if the model cannot be made by its name alone.

        Its number of channels is that of its first filters, whatever it was made with.

        Args:
          source: What was described.
        """
        self.require_name(source)
        if self.fields.keys() - {"in_channels"}:
            changed = ", ".join(
                f"{name}={value}" for name, value in self.fields.items()
            )
            raise ValueError(
                f"{source}: its model is {self.model} with {changed}; make it by "
                f"create_model({self.model!r}, {changed}) and pass it to "
                "load_pretrained."
            )


def provenance_of(path: pathlib.Path, own: OwnWeights | None) -> Provenance:
    """Returns where a file's weights come from.

    Args:
      path: The file.
      own: What it says of its weights; None if it is none of ours.
    """
    preprocessing = {} if own is None else own.preprocessing
    return Provenance(str(path), path, preprocessing=preprocessing)


def from_metadata(metadata: Mapping[str, Any], origin: str) -> OwnWeights:
    """Returns what the metadata of converted weights say.

    Args:
      metadata: See `cnn_jax.pretrained.convert`; what older versions did not write may
        be missing.
      origin: What an error calls them.

    Raises:
      ValueError: If they are not what `cnn-jax convert` writes.
    """
    with reading_metadata(origin):
        class_names = metadata.get("class_names")
        return checked(
            OwnWeights(
                model=_checked(metadata["model"], str),
                fields=as_fields(metadata.get("fields", {})),
                num_classes=_checked(metadata["num_classes"], int),
                dtype=metadata.get("dtype"),
                param_dtype=param_dtype_of(metadata.get("arrays", {})),
                class_names=as_class_names(class_names),
                preprocessing=dict(metadata["preprocessing"]),
            )
        )


def reading_metadata(origin: str) -> contextlib.AbstractContextManager[None]:
    """Turns whatever mistyped metadata raise into a FileError.

    Args:
      origin: What the error calls them.
    """
    return reading(
        origin,
        "what it writes; convert the weights again",
        found="metadata that cnn-jax convert does not write",
    )


def checked(own: OwnWeights) -> OwnWeights:
    """Returns what weights say of their model, if each value is one it can have.

    Raises:
      TypeError, ValueError: If one is not.
    """
    if own.model is not None:
        _checked(own.model, str)
    for name in own.fields:
        _checked(name, str)
    count = 0 if own.num_classes is None else _checked(own.num_classes, int)
    if not 0 <= count <= MAX_CLASSES:
        raise ValueError(f"num_classes: got {count}, expected 0 to {MAX_CLASSES:,}")
    if own.dtype is not None:
        _checked(own.dtype, str)
    if not {own.dtype or "float32", own.param_dtype} <= set(FLOATS):
        raise ValueError(f"dtypes: got {own.dtype} and {own.param_dtype}")
    check_preprocessing(own.preprocessing)
    return own


def as_class_names(content: Any) -> tuple[str, ...] | None:
    """Returns names of classes out of JSON; raises TypeError for anything else."""
    if content is None:
        return None
    return tuple(_checked(name, str) for name in _checked(content, list, tuple))


def parse_metadata(text: str | bytes, origin: str) -> OwnWeights:
    """Returns what the JSON in a file of arrays says; raises as `from_metadata`."""
    if len(text) > MAX_METADATA:
        raise FileError(
            f"{origin}: got {len(text):,} bytes of metadata, expected at most "
            f"{MAX_METADATA:,}; convert the weights again."
        )
    with reading(
        origin,
        "what cnn-jax convert writes; convert the weights again",
        found=f"metadata under {METADATA_NAME!r} that are no JSON",
    ):
        content = json.loads(text)
    return from_metadata(content, origin)


def as_fields(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a model's fields out of JSON: with tuples, which modules can hash."""

    def as_field(value: Any) -> Any:
        if isinstance(value, int) and abs(value) > _MAX_FIELD:
            raise ValueError(f"fields: got an integer over {_MAX_FIELD:,}")
        return tuple(map(as_field, value)) if isinstance(value, list) else value

    if not isinstance(content, dict):
        raise TypeError(f"fields: got {type(content).__name__}, expected an object")

    return {name: as_field(value) for name, value in content.items()}


def param_dtype_of(specs: Mapping[str, str]) -> str:
    """Returns the one dtype of all parameters; float32 if there are several.

    Args:
      specs: Path -> `"float32[3,3,16,16]"`.
    """
    dtypes = {
        spec.partition("[")[0]
        for path, spec in specs.items()
        if path.startswith("params/")
    }
    return dtypes.pop() if len(dtypes) == 1 else "float32"


def num_classes_of(specs: Mapping[str, str]) -> int | None:
    """Returns the width of the last layer, or None if no layer is named so.

    Args:
      specs: As for `param_dtype_of`.
    """
    for path, spec in specs.items():
        if re.fullmatch(HEAD, path):
            return int(spec.rstrip("]").replace("[", ",").split(",")[-1])
    return None


def check_preprocessing(found: Mapping[str, Any]) -> None:
    """Raises ValueError for what no preprocessing is, see `Provenance`."""
    known_fields(found)


def _checked(value: Any, *types: type) -> Any:
    if not isinstance(value, types) or isinstance(value, bool):
        names = " or ".join(kind.__name__ for kind in types)
        raise TypeError(f"got {str(value)[:100]!r}, expected {names}")
    return value
