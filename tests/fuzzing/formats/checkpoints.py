"""Checkpoints of ours: what `cnn-jax convert` wrote, and training runs' directories."""

from __future__ import annotations

import hashlib
import json
import pathlib
import random
from collections.abc import Sequence

import numpy as np

from fuzzing.formats import Format
from fuzzing.formats.weights import lenet_arrays, read_as_ours
from fuzzing.mutations import of_bytes, of_json, of_parts


def _split_manifest(content: bytes) -> Sequence[bytes]:
    return (content.partition(b"\n")[2],)


def _join_manifest(parts: Sequence[bytes]) -> bytes:
    return hashlib.sha256(parts[0]).hexdigest().encode() + b"\n" + parts[0]


def _make_converted(directory: pathlib.Path) -> None:
    from cnn_jax.pretrained import convert

    plain = directory.parent / "plain.npz"
    np.savez(plain, **lenet_arrays())
    convert(plain, directory / "weights", "lenet5")


def _make_run(directory: pathlib.Path) -> None:
    from helpers.runs import make_run

    from cnn_jax.pretrained.files.own_checkpoints import nested

    make_run(directory / "weights", nested(lenet_arrays()), steps=[1])


def _sign(directory: pathlib.Path, generator: random.Random) -> None:
    """Has the manifest say of every file what it is now, so that Orbax gets to it."""
    for path in directory.rglob("MANIFEST"):
        try:
            content = json.loads(path.read_bytes().partition(b"\n")[2])
            for name, entry in content["files"].items():
                place = path.parent / name
                data = place.read_bytes() if _is_plain(place) else b""
                entry["size"] = len(data)
                entry["sha256"] = hashlib.sha256(data).hexdigest()
            path.write_bytes(_join_manifest([json.dumps(content).encode()]))
        except Exception:  # the manifest itself is what was mutated
            continue


def _is_plain(path: pathlib.Path) -> bool:
    return path.is_file() and not path.is_symlink()


_MANIFEST = of_parts(_split_manifest, _join_manifest, of_json)
_MANIFEST_BYTES = of_parts(_split_manifest, _join_manifest, of_bytes)

FORMATS = (
    Format(
        "checkpoint",
        _make_converted,
        read_as_ours("weights"),
        {"*": (of_json,)},
        finish=_sign,
    ),
    Format(
        "manifest",
        _make_converted,
        read_as_ours("weights"),
        {"*": (_MANIFEST, _MANIFEST, _MANIFEST_BYTES)},
        mutated=("MANIFEST",),
    ),
    Format(
        "manifest-of-run",
        _make_run,
        read_as_ours("weights"),
        {"*": (_MANIFEST, _MANIFEST, _MANIFEST_BYTES)},
        mutated=("MANIFEST",),
    ),
    Format(
        "config-of-run",
        _make_run,
        read_as_ours("weights"),
        {"*": (of_json,)},
        mutated=("config.json",),
    ),
)
