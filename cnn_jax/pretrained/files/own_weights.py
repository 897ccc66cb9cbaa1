"""Metadata of this project's weights, whatever kind of file they are stored in.

`cnn-jax convert` writes these metadata into a directory, a `.safetensors` or a `.npz`
file; a training run's checkpoints say the same in other words (`own_checkpoints.py`).
A file may come from anybody, so that what it says is checked before it is used.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from cnn_jax.pretrained.files.stored import FLOATS, Provenance

KIND = "cnn_jax.pretrained"
"""The value that marks the metadata of converted weights."""

METADATA_NAME = "cnn_jax"
"""The name under which a file of arrays holds the metadata, as JSON."""

HEAD = r"params/(.*/)?head/(kernel|bias)"
"""The paths that depend on the number of classes."""

_PREPROCESSING_LENGTHS = {"mean": (1, None), "std": (1, None), "input_shape": (3, 3)}


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

        Args:
          source: What was described.
        """
        self.require_name(source)
        if self.fields:
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
    try:
        fields = metadata.get("fields", {})
        class_names = metadata.get("class_names")
        own = OwnWeights(
            model=_checked(metadata["model"], str),
            fields=as_fields(fields),
            num_classes=_checked(metadata["num_classes"], int),
            dtype=_checked(metadata.get("dtype"), str, type(None)),
            param_dtype=param_dtype_of(metadata.get("arrays", {})),
            class_names=None if class_names is None else tuple(map(str, class_names)),
            preprocessing=dict(metadata["preprocessing"]),
        )
        if not {own.dtype or "float32", own.param_dtype} <= set(FLOATS):
            raise ValueError(f"dtypes: got {own.dtype} and {own.param_dtype}")
        _check_preprocessing(own.preprocessing)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{origin}: got metadata that cnn-jax convert does not write "
            f"({type(error).__name__}: {error}); convert the weights again."
        ) from error
    return own


def parse_metadata(text: str | bytes, origin: str) -> OwnWeights:
    """Returns what the JSON in a file of arrays says; raises as `from_metadata`."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"{origin}: got metadata under {METADATA_NAME!r} that are no JSON "
            f"({error}); convert the weights again."
        ) from error
    return from_metadata(content, origin)


def as_fields(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a model's fields out of JSON: with tuples, which modules can hash."""

    def as_field(value: Any) -> Any:
        return tuple(map(as_field, value)) if isinstance(value, list) else value

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


def _checked(value: Any, *types: type) -> Any:
    if not isinstance(value, types) or isinstance(value, bool):
        names = " or ".join(kind.__name__ for kind in types)
        raise TypeError(f"got {value!r}, expected {names}")
    return value


def _check_preprocessing(found: Mapping[str, Any]) -> None:
    for name, (least, most) in _PREPROCESSING_LENGTHS.items():
        if name not in found:
            continue
        values = [_checked(value, int, float) for value in found[name]]
        if len(values) < least or (most is not None and len(values) > most):
            raise ValueError(f"{name}: got {found[name]}")
        if name != "mean" and min(values) <= 0:
            raise ValueError(f"{name}: got {found[name]}, expected positive numbers")
        if name == "input_shape" and max(_checked(v, int) for v in values) > 2**15:
            raise ValueError(f"{name}: got {found[name]}, expected at most {2**15}")
