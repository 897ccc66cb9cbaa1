"""Exporting: weights in, a file out."""

from __future__ import annotations

import os
import pathlib
from typing import Any, Literal, get_args

from cnn_jax.export import loading
from cnn_jax.export.description import KIND
from cnn_jax.export.network import open_network
from cnn_jax.files import FileError, check_output, open_regular, whole_file

Format = Literal["stablehlo", "onnx"]
FORMATS = get_args(Format)

_MARKS = (KIND.encode(), b"\x12\x07cnn_jax")
"""Bytes near the beginning of each format's files: the kind in the metadata, and the
producer's name as protobuf has it."""

_BEGINNING = 2**10

_NEEDED = {"stablehlo": "flatbuffers", "onnx": "onnx"}
"""The package of the extra `export` that writes a format."""


def export(
    weights: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    format: Format,
    model: str | None = None,
    num_classes: int | None = None,
    normalized: bool = False,
) -> dict[str, Any]:
    """Writes a network as a file that needs no module of this project.

    The batch is free in both formats, and the file has the names of the classes and the
    recipe for images in it. It appears when it is complete and was checked: StableHLO
    against the model's logits, ONNX by its own checker and, where `onnxruntime` is
    installed, against the model's logits too.

    Args:
      weights: The directory of a training run, or what else `load_pretrained` reads.
      destination: The file to write; one that this function wrote is replaced.
      format: "stablehlo" or "onnx".
      model: The model's name; None takes the one that the weights say.
      num_classes: How many classes they are for; None takes what they say, or the
        model's usual number.
      normalized: Whether the input of the file is normalised images, float32, and not
        pixels, uint8.

    Returns:
      What was written: the description's fields, `format`, `bytes`, `destination` and
      `checked_by`.

    Raises:
      FileNotFoundError: If there are no such weights.
      ImportError: If the extra `export` is not installed, or what reads such weights.
      ValueError: If the weights do not fit, the destination is another file, or ONNX
        has no operation for a layer, which the message names.
      OSError: If the file cannot be written.
    """
    if format not in FORMATS:
        raise ValueError(f"format: got {format!r}, expected {' or '.join(FORMATS)}.")
    destination = pathlib.Path(destination)
    _check_destination(destination, weights)
    loading.require(_NEEDED[format])
    network = open_network(
        weights, model=model, num_classes=num_classes, normalized=normalized
    )
    checked_by = ["the model's logits"]
    if format == "stablehlo":
        from cnn_jax.export.stablehlo import as_stablehlo

        content = as_stablehlo(network)
    else:
        from cnn_jax.export.onnx import as_onnx

        content, checked_by = as_onnx(network)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(destination, shared=True) as file:
        file.write(content)
    return network.description.to_dict() | {
        "format": format,
        "destination": str(destination),
        "bytes": len(content),
        "checked_by": checked_by,
    }


def _check_destination(
    destination: pathlib.Path, weights: str | os.PathLike[str]
) -> None:
    """Checks that what is written takes the place of nothing but another export."""
    if not os.path.lexists(destination):
        return
    is_other = destination.is_symlink() or destination.is_dir()
    is_export = not is_other and _is_export(destination)
    # An export from before may be in the directory that the weights are read from.
    if is_export and os.path.isdir(weights):
        return
    check_output(destination, [weights])
    if not is_export:
        raise FileError(
            f"{destination}: got a place where there is something that `cnn-jax "
            "export` did not write; move it, or choose another."
        )


def _is_export(path: pathlib.Path) -> bool:
    with open_regular(path) as file:
        beginning = file.read(_BEGINNING)
    return any(mark in beginning for mark in _MARKS)
