"""The devices that jax found in its own process, and the settings that it has."""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from cnn_jax import memory
from cnn_jax.doctor.child import Answer
from cnn_jax.doctor.computations import OPTIONS, TOLERANCE
from cnn_jax.doctor.directories import nearest_existing
from cnn_jax.doctor.finding import Finding, fault, ok, warning

_REASONS = {
    "start": "importing jax",
    "join": "joining the group of processes",
    "devices": "initialising the devices",
    "settings": "reading jax's settings",
    "arithmetic": "a small computation",
    "group": "exchanging a text with the other processes",
    "leave": "leaving the group of processes",
}


def platform_of(answer: Answer) -> str | None:
    """Returns the platform that jax computes on; None if it has none."""
    devices = result_of(answer, "devices")
    return None if devices is None else devices["platform"]


def result_of(answer: Answer, stage: str) -> Any:
    """Returns what a stage found; None if it failed or was not reached."""
    return (answer.found.get(stage) or {}).get("result")


def check_devices(answer: Answer) -> Iterator[Finding]:
    """Yields what there is, and whether each device computes rightly."""
    name = "devices"
    devices = result_of(answer, "devices")
    if devices is None:
        yield fault(name, *_why(answer, "join", "devices", "start"))
        return
    kinds = collections.Counter(each["kind"] for each in devices["local"])
    listed = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    memories = {each["memory"] for each in devices["local"]} - {None}
    amount = f", {memory.size(min(memories))} each" if memories else ""
    of_all = (
        f", of {devices['count']} of all processes" if devices["processes"] > 1 else ""
    )
    yield ok(name, f"{devices['platform']}: {listed}{amount}{of_all}.")
    if devices["platform"] == "cpu" and os.environ.get("JAX_PLATFORMS") in ("", None):
        yield ok("platform", "jax found no accelerator and chose the CPU.")
    yield _arithmetic(answer, len(devices["local"]))


def check_accelerated_convolution(answer: Answer) -> Finding | None:
    """Checks that the GPU's library of convolutions loads; None without a GPU."""
    if platform_of(answer) not in ("gpu", "cuda", "rocm"):
        return None
    name, probe = "cuDNN", "shifted_convolution"
    found = answer.found.get(probe)
    if found is None:
        return fault(name, *_why(answer, probe))
    if "error" in found:
        return fault(
            name,
            f"a convolution failed: {found['error']}",
            "Install the cuDNN that jax's plugin brings (`pip install -U "
            "'jax[cuda13]'`), and clear LD_LIBRARY_PATH, which may name another one.",
        )
    if found["result"] > TOLERANCE:
        return fault(
            name,
            f"a convolution is off by {found['result']:.2g} times its result.",
            "Install the cuDNN that jax's plugin brings.",
        )
    return ok(name, "a convolution runs and is right.")


def check_settings(answer: Answer) -> Iterator[Finding]:
    """Yields findings on the settings that change results or speed."""
    settings = result_of(answer, "settings")
    if settings is None:
        return
    slow = [name for name in OPTIONS if settings[name]]
    if slow:
        yield warning(
            "debugging settings",
            f"{', '.join(slow)} is on: every step is slow.",
            "Unset it (JAX_DISABLE_JIT, JAX_DEBUG_NANS, ...) for a run.",
        )
    else:
        yield ok("debugging settings", "none is on.")
    if settings["x64"]:
        yield warning(
            "64-bit types",
            "jax_enable_x64 is on: numbers without a dtype become float64, which a TPU "
            "has not and others compute slowly.",
            "Unset JAX_ENABLE_X64 for a run.",
        )
    else:
        yield ok("64-bit types", "jax_enable_x64 is off.")
    precision = settings["matmul_precision"]
    platform = platform_of(answer)
    default = {"tpu": "bfloat16 products", "gpu": "TF32 products"}.get(
        platform or "", "float32 products"
    )
    yield ok("matmul precision", f"{precision or f'the default: {default}'}.")
    prng = settings["prng"]
    yield ok("random numbers", f"{prng}.")
    flags = settings["xla_flags"]
    yield ok("XLA_FLAGS", f"{flags or 'not set'}.")


def check_cache(settings: Mapping[str, Any] | None) -> Finding:
    """Checks that compiled programs are kept, and can be."""
    name = "compilation cache"
    directory = (settings or {}).get("cache")
    if not directory:
        return ok(
            name,
            "not set: each start compiles anew. JAX_COMPILATION_CACHE_DIR names a "
            "directory, or a bucket, for compiled programs.",
        )
    if "://" in directory:
        return ok(name, f"{directory}.")
    try:
        nearest = nearest_existing(pathlib.Path(directory).expanduser())
        is_writable = os.path.isdir(nearest) and os.access(nearest, os.W_OK | os.X_OK)
    except (OSError, RuntimeError):  # the latter for an unknown ~user
        is_writable = False
    if not is_writable:
        return warning(
            name,
            f"{directory} cannot be written, so nothing is kept.",
            "Set JAX_COMPILATION_CACHE_DIR to a directory of your own.",
        )
    return ok(name, f"{directory}.")


def _arithmetic(answer: Answer, count: int) -> Finding:
    name = "arithmetic"
    found = answer.found.get("arithmetic")
    if found is None or "error" in found:
        return fault(name, *_why(answer, "arithmetic"))
    wrong = found["result"]
    if wrong:
        return fault(
            name,
            f"a product of small integers is wrong on device {wrong}.",
            "Do not compute on it: restart the host, and have it replaced if it stays.",
        )
    each = f"each of {count} devices" if count > 1 else "the device"
    return ok(name, f"a product of small integers is exact on {each}.")


def _why(answer: Answer, *stages: str) -> tuple[str, str]:
    """Returns why a stage has no result, and what to do."""
    for stage in stages:
        error = (answer.found.get(stage) or {}).get("error")
        if error is not None and stage == "join":
            return f"not tried: {_REASONS[stage]} failed: {error}", "Mend that first."
        if error is not None:
            chosen = os.environ.get("JAX_PLATFORMS")
            given = f" with JAX_PLATFORMS={chosen}" if chosen else ""
            return (
                f"{_REASONS.get(stage, stage)} failed{given}: {error}",
                "JAX_PLATFORMS names what jax looks for; what is not installed or not "
                "attached must not be in it.",
            )
    said = [line for line in answer.errors.splitlines() if line.strip()]
    where = _REASONS.get(answer.unfinished or "", answer.unfinished or "the end")
    sentence = f"{where} failed: {answer.problem or 'it was not reached'}."
    if said:
        sentence += f" It said: {said[-1][:300]}"
    return (
        sentence,
        "On a slice of several hosts start doctor on all of them at the same time. "
        "See that no other process uses the device; JAX_PLATFORMS=cpu leaves it alone.",
    )
