"""Conversion of weights to files with this project's names, checked."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import trees
from cnn_jax.files import sha256, whole_file
from cnn_jax.models import model_info
from cnn_jax.pretrained.channels import RGB, convert_preprocessing
from cnn_jax.pretrained.files import OwnWeights, describe_own
from cnn_jax.pretrained.files.own_weights import KIND, METADATA_NAME
from cnn_jax.pretrained.files.stored import as_said
from cnn_jax.pretrained.load import check_in_channels, fill
from cnn_jax.pretrained.rebuild import rebuild
from cnn_jax.pretrained.report import ConversionReport, some
from cnn_jax.pretrained.rules import Origin


def convert(
    path: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    name: str | None = None,
    *,
    source: Origin | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    key: jax.Array | None = None,
) -> tuple[ConversionReport, dict[str, Any]]:
    """Writes a model's variables and their metadata.

    `load_pretrained(name, destination)` reads them back, and `predict(destination,
    ...)` needs no name. What is written appears when it is complete.

    Args:
      path: What holds the weights, see `load_pretrained`; no mapping.
      destination: What to write, which must not exist: a `.safetensors` or `.npz` file
        by that suffix, and without a suffix a directory with a checkpoint of ours.
      name: The model's name in `list_models()`; None takes the one that weights of
        ours say.
      source: See `load_pretrained`.
      num_classes: See `load_pretrained`; None takes what a checkpoint of ours says.
      in_channels: The number of channels of the images that the written weights are
        for: the first filters of RGB weights, with mean and deviation, are made into
        ones for it, see `load_pretrained`. None keeps them as they are.
      key: See `load_pretrained`.

    Returns:
      The report, and the metadata that are written too: `kind`, `model`, `fields` (the
      model's fields beside its name's), `dtype` (None if the source does not say it),
      `num_classes`, `class_names` (likewise), `source`, `location`, `revision`, `part`,
      `sha256` of the file (None for a directory), `preprocessing`, `arrays` (path ->
      dtype and shape), `keys` (the source's names -> paths), `ignored`, `cast`,
      `initialized`, `converted` (path -> channels of its filters before and after) and
      `versions`. In a file they are JSON: of a `.safetensors` file the metadata
      `cnn_jax`, of a `.npz` file the bytes in the array `cnn_jax`.

    Raises:
      CheckpointError: If the checkpoint cannot be written.
      FileExistsError: If the destination exists.
      FileNotFoundError: As in `load_pretrained`.
      ImportError: As in `load_pretrained`.
      ValueError: As in `load_pretrained`. If the destination has another suffix, or is
        a `.npz` file and the parameters are bfloat16, which NumPy's files cannot hold.
    """
    from cnn_jax.checkpoint import installed_versions

    check_in_channels(in_channels)
    destination = pathlib.Path(destination)
    _check_destination(destination)
    known = describe_own(path)
    if known is not None:
        name = name or known.model
        num_classes = known.num_classes if num_classes is None else num_classes
    model = rebuild(path, known, name=name, num_classes=num_classes)
    theirs = known if known is not None and name == known.model else None
    fields = {} if theirs is None else dict(theirs.fields)
    if in_channels is not None and "in_channels" in fields:
        fields["in_channels"] = in_channels
        model = model.clone(in_channels=in_channels)
    variables, report = fill(
        model,
        path,
        source=source,
        num_classes=num_classes,
        in_channels=in_channels,
        key=key,
    )
    provenance = report.provenance
    metadata = {
        "kind": KIND,
        "model": name,
        "fields": fields,
        "dtype": None if known is None else known.dtype,
        "num_classes": model.num_classes,
        "class_names": _class_names(known, num_classes, model, report),
        "source": report.source,
        "location": provenance.location,
        "revision": provenance.revision,
        "part": provenance.part,
        "sha256": _sha256(provenance.file),
        "preprocessing": _preprocessing(report, str(name)),
        "arrays": trees.leaf_specs(variables),
        "keys": dict(report.loaded),
        "ignored": list(report.ignored),
        "cast": {path: list(dtypes) for path, dtypes in report.cast.items()},
        "initialized": list(report.initialized),
        "converted": {path: list(pair) for path, pair in report.converted.items()},
        "versions": installed_versions(),
    }
    write_weights(destination, variables, metadata)
    return report, metadata


def write_weights(
    destination: str | os.PathLike[str],
    variables: Any,
    metadata: Mapping[str, Any],
) -> None:
    """Writes variables with their metadata, which appear when they are complete.

    Args:
      destination: As for `convert`.
      variables: `{"params", "batch_stats"}`.
      metadata: What `convert` returns, which `describe_own` reads back.

    Raises:
      FileExistsError, ValueError: As `convert` does.
    """
    destination = pathlib.Path(destination)
    _check_destination(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    _WRITERS[destination.suffix](destination, variables, metadata)


def _check_destination(destination: pathlib.Path) -> None:
    if destination.suffix not in _WRITERS:
        raise ValueError(
            f"{destination}: got a destination that ends in {destination.suffix!r}, "
            "expected .safetensors or .npz for a file, or no suffix for a directory."
        )
    if os.path.lexists(destination):
        raise FileExistsError(
            f"{destination}: exists already; remove it, or choose another destination."
        )


def _write_directory(
    destination: pathlib.Path, variables: Any, metadata: Mapping[str, Any]
) -> None:
    from cnn_jax.checkpoint import Checkpointer

    unfinished = tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}")
    try:
        with Checkpointer(unfinished) as checkpointer:
            checkpointer.save(0, variables, metadata)
        pathlib.Path(unfinished).chmod(0o755)  # mkdtemp's are the owner's alone
        os.rename(unfinished, destination)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _write_safetensors(
    destination: pathlib.Path, variables: Any, metadata: Mapping[str, Any]
) -> None:
    import safetensors.numpy

    content = safetensors.numpy.save(
        _host_arrays(variables), {METADATA_NAME: json.dumps(metadata)}
    )
    with whole_file(destination, shared=True, replace=False) as file:
        file.write(content)


def _write_npz(
    destination: pathlib.Path, variables: Any, metadata: Mapping[str, Any]
) -> None:
    arrays: dict[str, Any] = {**_host_arrays(variables)}
    narrow = [name for name, array in arrays.items() if array.dtype == jnp.bfloat16]
    if narrow:
        raise ValueError(
            f"{destination}: got {len(narrow)} bfloat16 arrays ({some(narrow)}), which "
            "a .npz file cannot hold; write a .safetensors file."
        )
    arrays[METADATA_NAME] = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    with whole_file(destination, shared=True, replace=False) as file:
        np.savez(file, **arrays)


_WRITERS = {
    "": _write_directory,
    ".safetensors": _write_safetensors,
    ".npz": _write_npz,
}


def _host_arrays(variables: Any) -> dict[str, np.ndarray]:
    return {
        name: np.ascontiguousarray(leaf)
        for name, leaf in trees.named_leaves(jax.device_get(variables)).items()
    }


def _preprocessing(report: ConversionReport, name: str) -> dict[str, Any]:
    """Returns what the written weights say of their images.

    The model's entry in the registry is for RGB images and goes for weights that say
    nothing; where their filters were converted, it is converted and written likewise.
    """
    said = dict(report.provenance.preprocessing)
    if report.converted and "mean" not in said:
        usual = as_said(model_info(name).preprocessing)
        if len(usual["mean"]) == RGB:
            said = convert_preprocessing(usual, report.input_shape[-1]) | said
    return said


def _class_names(
    known: OwnWeights | None,
    num_classes: int | None,
    model: nn.Module,
    report: ConversionReport,
) -> list[str] | None:
    """Returns the names of the classes, unless they are others now."""
    if known is None:
        names = report.known_class_names(model.num_classes)
    else:
        names = known.class_names if known.num_classes == num_classes else None
    return None if names is None else list(names)


def _sha256(path: pathlib.Path | None) -> str | None:
    return None if path is None or path.is_dir() else sha256(path)
