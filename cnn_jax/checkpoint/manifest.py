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

import contextlib
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from cnn_jax.checkpoint import files
from cnn_jax.checkpoint.errors import CheckpointError, DamagedError
from cnn_jax.files import FileError, reading
from cnn_jax.messages import printable

NAME = "MANIFEST"
FORMAT_VERSION = 1

MAX_BYTES = 2**24
"""The longest manifest that is read."""

_SPEC = re.compile(r"[^\[\]]{1,100}\[(\d{1,18}(,\d{1,18}){0,31})?\]")


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
    sizes = {
        name: files.size(directory / name)
        for name in sorted(files.all_files(directory))
    }
    found = {
        name: {"size": size, "sha256": files.sha256(directory / name, size)}
        for name, size in sizes.items()
    }
    replace(directory, dataclasses.replace(manifest, files=found))


def replace(directory: epath.Path, manifest: Manifest) -> None:
    """Writes a manifest whole, in place of an old one if there is one.

    Raises:
      ValueError: If it is longer than `read` takes.
    """
    body = json.dumps(dataclasses.asdict(manifest), indent=1).encode()
    if len(body) > MAX_BYTES - 2**10:
        raise ValueError(
            f"{NAME}: got metadata of {len(body):,} bytes, expected at most "
            f"{MAX_BYTES:,}."
        )
    header = hashlib.sha256(body).hexdigest().encode()
    files.write_atomically(directory / NAME, header + b"\n" + body)


def read(directory: epath.Path) -> Manifest:
    """Reads a checkpoint's manifest.

    Raises:
      DamagedError: If there is none, or it is not as it was written.
      CheckpointError: If its format is newer than this version reads, or it says more.
    """
    try:
        content = files.read_bytes(directory / NAME, max_bytes=MAX_BYTES)
    except FileNotFoundError:
        raise DamagedError(f"it has no {NAME}") from None
    except (FileError, OSError) as error:
        raise DamagedError(f"its {NAME} cannot be read ({error})") from error
    header, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != header:
        raise DamagedError(f"its {NAME} is not as it was written")
    with _naming_damage(directory):
        found = _typed("the content", json.loads(body), dict)
        version = _typed("format_version", found["format_version"], int)
    _check_version(directory, version, found)
    with _naming_damage(directory):
        return _checked(found)


@contextlib.contextmanager
def _naming_damage(directory: epath.Path) -> Iterator[None]:
    """Raises `DamagedError` for whatever a manifest of other values makes raise."""
    try:
        with reading(directory / NAME, "what this project writes"):
            yield
    except FileError as error:
        raise DamagedError(str(error).rstrip(".")) from error


def _check_version(
    directory: epath.Path, version: int, found: Mapping[str, Any]
) -> None:
    """Raises `CheckpointError` for what only a newer version can have written."""
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{directory}: got a checkpoint of format {version}, expected format "
            f"{FORMAT_VERSION}. Install the version of cnn_jax that made it, or newer."
        )
    known = {field.name for field in dataclasses.fields(Manifest)}
    if unknown := sorted(found.keys() - known):
        raise CheckpointError(
            f"{directory}: got a checkpoint that says more than this version knows "
            f"({printable(', '.join(unknown)[:200])}): a newer version of cnn_jax made "
            "it. Install that version, or newer."
        )


def _checked(found: dict[str, Any]) -> Manifest:
    """Returns the manifest that a JSON object is.

    Raises:
      TypeError, ValueError: If a value is missing, or none that `replace` writes.
    """
    content = Manifest(**found)
    if _typed("step", content.step, int) < 0:
        raise ValueError(f"step: got {content.step}")
    if content.metric is not None:
        _typed("metric", content.metric, int, float)
        if not abs(content.metric) < math.inf:
            raise ValueError(f"metric: got {content.metric}")
    if content.digest is not None:
        _typed("digest", content.digest, str)
    _typed("user", content.user, dict)
    for path, spec in _typed("leaves", content.leaves, dict).items():
        if not _SPEC.fullmatch(_typed(f"leaves, {path}", spec, str)):
            raise ValueError(f"leaves, {path}: got {spec!r}")
    for name, entry in _typed("files", content.files, dict).items():
        _check_inside(name)
        _typed(f"files, {name}", entry, dict)
        size = _typed(f"files, {name}, size", entry["size"], int)
        sha256 = _typed(f"files, {name}, sha256", entry["sha256"], str)
        if size < 0 or not re.fullmatch("[0-9a-f]{64}", sha256):
            raise ValueError(f"files, {name}: got {entry}")
    return content


def _typed(name: str, value: Any, *types: type) -> Any:
    if not isinstance(value, types) or isinstance(value, bool):
        expected = " or ".join(kind.__name__ for kind in types)
        raise TypeError(f"{name}: got a {type(value).__name__}, expected {expected}")
    return value


def _check_inside(name: str) -> None:
    """Raises ValueError for the name of a file that is not in the checkpoint."""
    parts = name.split("/")
    if "\0" in name or not all(parts) or {".", ".."} & set(parts):
        raise ValueError(f"files: got {name!r}, expected a name in the checkpoint")


def check_sizes(directory: epath.Path, manifest: Manifest) -> None:
    """Raises `DamagedError` if a file is missing or not as long as it was.

    Neither may there be a pipe or a device: whoever reads the arrays would open it.
    """
    problems = [f"{name} is no file" for name in files.special_files(directory)]
    for name, expected in manifest.files.items():
        try:
            found = files.size(directory / name)
        except FileError as error:
            problems.append(str(error))
            continue
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
            found = files.sha256(directory / name, expected["size"])
        except (FileError, OSError) as error:
            problems.append(f"{name} cannot be read ({error})")
            continue
        if found != expected["sha256"]:
            problems.append(f"{name} is not as it was written (its sha256 differs)")
    if problems:
        raise DamagedError("; ".join(problems))
