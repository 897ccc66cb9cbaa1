"""The manifest: a checkpoint's contents, and checksums over every byte of it.

The file `MANIFEST` is the last that is written into a checkpoint. Its first line is the
sha256 of all that follows, a JSON object:

    format_version   1
    step             the step's number
    metric           what the best checkpoint is chosen by, or null
    leaves           path -> "float32[3,3,16,16]" of every array
    digest           `cnn_jax.trees.digest` of the tree, or null
    user             the metadata that was saved with it
    files            name -> {"size", "sha256"} of every other file
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from etils import epath

from cnn_jax.checkpoint import files
from cnn_jax.checkpoint.errors import CheckpointError, DamagedError

NAME = "MANIFEST"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of a manifest, described above."""

    step: int
    metric: float | None
    leaves: dict[str, str]
    digest: str | None
    user: dict[str, Any]
    files: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def write(directory: epath.Path, manifest: Manifest) -> None:
    """Completes a checkpoint: syncs its files, hashes them, writes the manifest."""
    files.sync_tree(directory)
    found = {
        name: {
            "size": files.size(directory / name),
            "sha256": files.sha256(directory / name),
        }
        for name in sorted(files.all_files(directory))
    }
    replace(directory, dataclasses.replace(manifest, files=found))


def replace(directory: epath.Path, manifest: Manifest) -> None:
    """Writes a manifest whole, in place of an old one if there is one."""
    body = json.dumps(dataclasses.asdict(manifest), indent=1).encode()
    header = hashlib.sha256(body).hexdigest().encode()
    files.write_atomically(directory / NAME, header + b"\n" + body)


def read(directory: epath.Path) -> Manifest:
    """Reads a checkpoint's manifest.

    Raises:
      DamagedError: If there is none, or it is not as it was written.
      CheckpointError: If its format is newer than this version reads.
    """
    try:
        content = (directory / NAME).read_bytes()
    except FileNotFoundError:
        raise DamagedError(f"it has no {NAME}") from None
    except OSError as error:
        raise DamagedError(f"its {NAME} cannot be read ({error})") from error
    header, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != header:
        raise DamagedError(f"its {NAME} is not as it was written")
    found = json.loads(body)
    version = found["format_version"]
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{directory}: got a checkpoint of format {version}, expected format "
            f"{FORMAT_VERSION}. Install the version of cnn_jax that made it, or newer."
        )
    return Manifest(**found)


def check_sizes(directory: epath.Path, manifest: Manifest) -> None:
    """Raises `DamagedError` if a file is missing or not as long as it was."""
    problems = []
    for name, expected in manifest.files.items():
        try:
            found = files.size(directory / name)
        except OSError:
            problems.append(f"{name} is missing")
            continue
        if found != expected["size"]:
            problems.append(f"{name} has {found} bytes instead of {expected['size']}")
    if problems:
        raise DamagedError("; ".join(problems))


def check_content(directory: epath.Path, manifest: Manifest) -> None:
    """Raises `DamagedError` if a file is not, bit for bit, as it was."""
    check_sizes(directory, manifest)
    problems = []
    for name, expected in manifest.files.items():
        try:
            intact = files.sha256(directory / name) == expected["sha256"]
        except OSError as error:
            problems.append(f"{name} cannot be read ({error})")
            continue
        if not intact:
            problems.append(f"{name} is not as it was written (its sha256 differs)")
    if problems:
        raise DamagedError("; ".join(problems))
