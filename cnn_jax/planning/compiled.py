"""Answers of a compiler about a program, kept on disk so that it is asked once.

A program is known by its text: whatever the step depends on (the network, the package's
source, the shapes, the mesh) is in it. What else the compiler's answer depends on, the
versions and the devices, is hashed with it. A file holds what the compiler said as it
said it, so that another way to read it needs no compilation.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from cnn_jax import files
from cnn_jax.messages import warn
from cnn_jax.ranges import shown

FORMAT = 1
"""Of the files; others are not read."""

CACHE = "~/.cache/cnn_jax/plans"
"""The directory of the files, unless another is given."""

_MAX_TEXT_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class Answer:
    """The compiler's account of a program, for one of its devices.

    Attributes:
      text: The optimised program; empty where there is none.
      costs: `flops`, `bytes accessed` and `transcendentals`, as far as it counts them.
      memory: Bytes of `arguments`, `outputs`, `aliases` (outputs in the place of
        arguments), `temporaries` and `code`; empty where it does not tell.
      refusal: Why there is no program: it needs more memory than a device has. Empty if
        there is one.
      seconds: What compiling took, when it was compiled.
      versions: The compiler's, by name.
    """

    text: str
    costs: dict[str, float]
    memory: dict[str, int]
    refusal: str
    seconds: float
    versions: dict[str, str]


def compile_program(
    lowered: jax.stages.Lowered,
    devices: Sequence[Any],
    *,
    cache: str | os.PathLike[str] | None = CACHE,
) -> tuple[Answer, bool]:
    """Compiles a program, or finds what the compiler said of it before.

    Args:
      lowered: The traced program.
      devices: Its devices.
      cache: The directory of the files; None to compile in any case and keep nothing. A
        damaged file is replaced. One that cannot be written in the end is a warning.

    Returns:
      The answer, and whether it was in the cache.

    Raises:
      ValueError: If `cache` names no directory.
      OSError: If nothing can be written there; raised before compiling.
      jax.errors.JaxRuntimeError: If the compiler fails for another reason than memory.
    """
    path = None
    if cache is not None:
        key = program_key(lowered, devices)
        path = cache_directory(cache) / f"{key}.json"
        kept = _read(path)
        if kept is not None:
            return kept, True
        # Compiling takes minutes, and they are lost where it cannot be kept.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    answer = _compile(lowered, devices)
    if path is not None:
        try:
            _write(path, answer)
        except OSError as error:
            warn(f"{path}: the compiler's answer could not be kept: {error}")
    return answer, False


def cache_directory(cache: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the directory of the files, and makes it where it is not there.

    Raises:
      ValueError: If the name is empty, or begins with the `~` of an unknown user.
      OSError: If it cannot be made.
    """
    if not os.fspath(cache):
        raise ValueError("cache: got an empty name, expected a directory or `none`.")
    try:
        path = pathlib.Path(cache).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"cache: got {shown(os.fspath(cache))}, whose home directory is not known; "
            "expected a directory or `none`."
        ) from error
    path.mkdir(parents=True, exist_ok=True)
    return path


def program_key(lowered: jax.stages.Lowered, devices: Sequence[Any]) -> str:
    """Returns a hash of everything that the compiler's answer follows from.

    Of where an operation comes from, only the scopes around it count, which name the
    layers: which lines of which functions led to it changes no answer.
    """
    known = hashlib.sha256()
    for part in (f"format {FORMAT}", *_described(devices)):
        known.update(part.encode() + b"\0")
    known.update(lowered.as_text().encode() + b"\0")
    located = lowered.as_text(debug_info=True)
    # Their order and number follow from the callers of what is traced.
    names = set(re.findall(r'loc\("((?:[^"\\]|\\.)*)"\(', located))
    for name in sorted(names):
        if "/" in name or "(" in name:  # scopes, and not a function's name
            known.update(name.encode() + b"\0")
    return known.hexdigest()


def refused_bytes(refusal: str) -> tuple[int | None, int | None]:
    """Returns what the compiler says that a step needs, and what there is.

    Args:
      refusal: Its message: "... Used 17.53G of 15.75G hbm. ...", or "... the total
        memory required for HLO temporaries (17.53G) exceeds available HBM (15.75G)",
        which leaves out what is kept.
    """
    size = r"([\d.]+)([KMGT]?)"
    found = re.search(rf"[Uu]sed {size} of {size} hbm", refusal) or re.search(
        rf"\({size}\) exceeds available HBM \({size}\)", refusal
    )
    if found is None:
        return None, None
    scale = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    return (
        int(float(found[1]) * scale[found[2]]),
        int(float(found[3]) * scale[found[4]]),
    )


def compiler_versions(devices: Sequence[Any]) -> dict[str, str]:
    """Returns the versions that compiled programs depend on, by name."""
    names = ["jax", "jaxlib"] + ["libtpu"] * (devices[0].platform == "tpu")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def _described(devices: Sequence[Any]) -> Iterator[str]:
    yield json.dumps(compiler_versions(devices), sort_keys=True)
    yield (
        os.environ.get("XLA_FLAGS", "") + "\0" + os.environ.get("LIBTPU_INIT_ARGS", "")
    )
    for device in np.ravel(np.asarray(devices)):
        where = getattr(device, "coords", None), getattr(device, "core_on_chip", None)
        yield f"{device.device_kind} {device.id} {where}"


def _compile(lowered: jax.stages.Lowered, devices: Sequence[Any]) -> Answer:
    versions = compiler_versions(devices)
    started = time.perf_counter()
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        seconds = time.perf_counter() - started
        return Answer("", {}, {}, str(error), seconds, versions)
    seconds = time.perf_counter() - started
    counted = program.cost_analysis() or {}
    names = ("flops", "bytes accessed", "transcendentals")
    costs = {name: float(counted[name]) for name in names if name in counted}
    text = program.as_text() or ""
    return Answer(text, costs, _memory(program), "", seconds, versions)


def _memory(program: Any) -> dict[str, int]:
    try:
        found = program.memory_analysis()
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        found = None
    if found is None:
        return {}
    return {
        "arguments": found.argument_size_in_bytes,
        "outputs": found.output_size_in_bytes,
        "aliases": found.alias_size_in_bytes,
        "temporaries": found.temp_size_in_bytes,
        "code": found.generated_code_size_in_bytes,
    }


def _write(path: pathlib.Path, answer: Answer) -> None:
    packed = base64.b85encode(zlib.compress(answer.text.encode(), 9)).decode()
    content = dataclasses.asdict(answer) | {"format": FORMAT, "text": packed}
    # Several commands may plan at the same time.
    with files.whole_file(path, shared=True) as file:
        file.write(json.dumps(content).encode())


def _read(path: pathlib.Path) -> Answer | None:
    """Returns what a file holds; None where there is none, or a damaged one."""
    try:
        content = files.read_json(path)
        if content.pop("format") != FORMAT:
            return None
        unpacker = zlib.decompressobj()
        packed = base64.b85decode(content["text"])
        text = unpacker.decompress(packed, _MAX_TEXT_BYTES)
        if not unpacker.eof:
            return None
        answer = Answer(**(content | {"text": text.decode()}))
        is_whole = isinstance(answer.memory, dict) and isinstance(answer.costs, dict)
        return answer if is_whole and (answer.text or answer.refusal) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zlib.error):
        return None
