"""Weights from elsewhere, converted once: checked, and kept as our own checkpoint."""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import tempfile
from typing import Any

import jax

from cnn_jax import trees
from cnn_jax.models import model_info
from cnn_jax.pretrained.files import describe_own
from cnn_jax.pretrained.files.own_checkpoints import KIND, OwnCheckpoint
from cnn_jax.pretrained.load import load_pretrained
from cnn_jax.pretrained.report import ConversionReport
from cnn_jax.pretrained.rules import Origin


def convert(
    path: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    name: str,
    *,
    source: Origin | None = None,
    num_classes: int | None = None,
    key: jax.Array | None = None,
) -> tuple[ConversionReport, dict[str, Any]]:
    """Writes a checkpoint with a model's variables and where they come from.

    `load_pretrained(name, destination)` reads it back; nothing but Orbax is needed for
    that. The directory appears when it is complete.

    Args:
      path: What holds the weights, see `load_pretrained`; no mapping.
      destination: The directory to write, which must not exist.
      name: The model's name in `list_models()`.
      source: See `load_pretrained`.
      num_classes: See `load_pretrained`; None takes what a checkpoint of ours says.
      key: See `load_pretrained`.

    Returns:
      The report, and the checkpoint's metadata: `kind`, `model`, `num_classes`,
      `class_names` (None if the source does not say them), `source`, `location`,
      `revision`, `part`, `sha256` of the file (None for a directory), `preprocessing`,
      `arrays` (path -> dtype and shape), `keys` (the source's names -> paths),
      `ignored`, `cast`, `initialized` and `versions`.

    Raises:
      CheckpointError: If the checkpoint cannot be written.
      FileExistsError: If the destination exists.
      FileNotFoundError: As in `load_pretrained`.
      ImportError: As in `load_pretrained`.
      ValueError: As in `load_pretrained`.
    """
    from cnn_jax.checkpoint import Checkpointer, installed_versions

    destination = pathlib.Path(destination)
    if destination.exists():
        raise FileExistsError(
            f"{destination}: exists already; remove it, or choose another directory."
        )
    known = describe_own(path)
    if num_classes is None and known is not None:
        num_classes = known.num_classes
    variables, report = load_pretrained(
        name, path, source=source, num_classes=num_classes, key=key
    )
    provenance = report.provenance
    metadata = {
        "kind": KIND,
        "model": name,
        "num_classes": (
            model_info(name).num_classes if num_classes is None else num_classes
        ),
        "class_names": _class_names(known, num_classes),
        "source": report.source,
        "location": provenance.location,
        "revision": provenance.revision,
        "part": provenance.part,
        "sha256": _sha256(provenance.file),
        "preprocessing": dict(provenance.preprocessing),
        "arrays": trees.leaf_specs(variables),
        "keys": dict(report.loaded),
        "ignored": list(report.ignored),
        "cast": {path: list(dtypes) for path, dtypes in report.cast.items()},
        "initialized": list(report.initialized),
        "versions": installed_versions(),
    }
    destination.parent.mkdir(parents=True, exist_ok=True)
    unfinished = tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}")
    try:
        with Checkpointer(unfinished) as checkpointer:
            checkpointer.save(0, variables, metadata)
        pathlib.Path(unfinished).chmod(0o755)  # mkdtemp's are the owner's alone
        os.rename(unfinished, destination)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return report, metadata


def _class_names(
    known: OwnCheckpoint | None, num_classes: int | None
) -> list[str] | None:
    """Returns the names of the classes, unless they are others now."""
    if known is None or known.class_names is None or known.num_classes != num_classes:
        return None
    return list(known.class_names)


def _sha256(path: pathlib.Path | None) -> str | None:
    if path is None or path.is_dir():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
