"""The environment of a run: what its numbers depend on outside its configuration.

The same program gives other bits on another number of threads, since sums are split
among them; on a processor with other instructions; under other flags of XLA; with other
versions of jax. So every checkpoint says what they were, and a run is resumed where
they are the same, or where the difference is allowed by name.

How many devices and processes a run is spread over is the configuration's, which may
change: that is recorded beside, and a change of it said but not refused.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from cnn_jax import checkpoint, files, machine
from cnn_jax.training.devices.processes import gather_texts

SPREAD = ("devices", "processes")
"""Parts of the record that may change."""

HARMLESS_FLAGS = (
    *(
        "xla_dump",
        "xla_gpu_dump",
        "xla_cpu_dump",
        "xla_hlo_dump",
        "xla_log",
        "xla_vlog",
    ),
    *("xla_hlo_profile", "xla_hlo_graph", "xla_print", "xla_slow_operation_alarm"),
    *("xla_gpu_per_fusion_autotune_cache_dir", "xla_gpu_kernel_cache_file"),
    "xla_force_host_platform_device_count",
)
"""Beginnings of the names of XLA's flags that change no number: what is written for
people to read, where results are cached, and how many devices there are."""

_PLATFORM_FLAGS = {"cpu": "xla_cpu_", "gpu": "xla_gpu_", "tpu": "xla_tpu_"}

_FPMATH = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")
VARIABLES: Mapping[str, tuple[str, ...]] = {
    "cpu": ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", *_FPMATH),
    "gpu": ("NVIDIA_TF32_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG"),
    "tpu": ("LIBTPU_INIT_ARGS",),
}
"""Variables of the environment that reach a platform's kernels."""

OPTIONS = (
    "jax_allow_f16_reductions",
    "jax_compiler_enable_remat_pass",
    "jax_cpu_collectives_implementation",
    "jax_default_dtype_bits",
    "jax_disable_jit",
    "jax_disable_most_optimizations",
    "jax_exec_time_optimization_effort",
    "jax_high_dynamic_range_gumbel",
    "jax_memory_fitting_effort",
    "jax_numpy_dtype_promotion",
    "jax_optimization_level",
    "jax_softmax_custom_jvp",
    "jax_threefry_gpu_kernel_lowering",
    "jax_use_direct_linearize",
    "jax_use_shardy_partitioner",
)
"""Further settings of jax that programs are made by, where a version has them."""

MAX_FLAGS_BYTES = 2**20
"""The longest file of flags that `XLA_FLAGS` may name, to be read here."""


def numeric_environment(devices: Iterable[Any]) -> dict[str, Any]:
    """Returns what the numbers of a run on some devices depend on, for JSON.

    All processes of a run make this call, and get the same: what differs between them
    is a list, a value for each.

    Args:
      devices: Those of the run.

    Returns:
      The parts `config.run.ENVIRONMENT`, and how many `devices` and `processes`.
    """
    devices = list(devices)
    platform = devices[0].platform
    is_cpu = platform == "cpu"
    config: Any = jax.config  # its fields are made when it is imported
    options = {name: getattr(config, name, config.values.get(name)) for name in OPTIONS}
    here = {
        "platform": platform,
        "device_kind": devices[0].device_kind,
        "runtime": str(devices[0].client.platform_version),
        "threads": _num_threads() if is_cpu else None,
        "cpu": machine.cpu_model() if is_cpu else None,
        "instructions": " ".join(machine.vector_instructions()) if is_cpu else None,
        "xla_flags": _xla_flags(platform),
        "variables": {
            name: os.environ[name]
            for name in VARIABLES.get(platform, ())
            if name in os.environ
        },
        "jax": importlib.metadata.version("jax"),
        "jaxlib": importlib.metadata.version("jaxlib"),
        "x64": bool(config.jax_enable_x64),
        "prng": f"{config.jax_default_prng_impl}"
        + ("" if config.jax_threefry_partitionable else ", not partitionable"),
        "matmul_precision": _text(config.jax_default_matmul_precision),
        "options": {name: _text(options[name]) for name in OPTIONS},
    }
    found = [json.loads(each) for each in gather_texts(json.dumps(here))]
    everywhere = {
        part: value
        if all(each[part] == value for each in found)
        else [each[part] for each in found]
        for part, value in found[0].items()
    }
    return {**everywhere, "devices": len(devices), "processes": jax.process_count()}


def check_environment(
    saved: Mapping[str, Any], current: Mapping[str, Any], allowed: Iterable[str]
) -> None:
    """Refuses to continue a run whose environment has changed.

    Args:
      saved: `numeric_environment` in the checkpoint.
      current: That of now.
      allowed: `environment`, `environment.threads` and the like may change.

    Raises:
      ResumeRefusedError: If anything else differs.
    """
    saved, current = _comparable(saved, current)
    prefix, allowed = "environment.", list(allowed)
    may_change = {*SPREAD}
    may_change |= {name[len(prefix) :] for name in allowed if name.startswith(prefix)}
    if "environment" in allowed:
        may_change |= {*saved, *current}
    checkpoint.check_unchanged(
        "environment, and would go on with other numbers",
        saved,
        current,
        may_change=may_change,
        hint="--allow-changed environment continues all the same "
        "(environment.threads and so on: one of these alone)",
    )


def changed_environment(
    saved: Mapping[str, Any], current: Mapping[str, Any]
) -> dict[str, list[Any]]:
    """Returns what differs, part -> [saved, now]."""
    saved, current = _comparable(saved, current)
    return {
        part: [saved.get(part), current.get(part)]
        for part in dict.fromkeys([*saved, *current])
        if saved.get(part) != current.get(part)
    }


def _comparable(
    saved: Mapping[str, Any], current: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Leaves out what one of two versions does not record, or has no setting for."""
    sides = (
        {part: saved[part] for part in current if part in saved},
        {part: current[part] for part in current if part in saved},
    )
    first, second = (side.get("options") for side in sides)
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        known = [name for name in first if None not in (first[name], second.get(name))]
        for side, options in zip(sides, (first, second), strict=True):
            side["options"] = {name: options[name] for name in known}
    return sides


def _num_threads() -> int:
    """Returns how many threads a computation is split among on the CPU.

    XLA makes as many as this process may use cores, unless the environment says how
    many, and no fewer than devices.
    """
    for name in ("PJRT_NPROC", "NPROC"):
        try:
            return max(int(os.environ[name]), 0)
        except (KeyError, ValueError):
            continue
    return machine.num_cores()


def _xla_flags(platform: str) -> dict[str, str]:
    """Returns the flags in `XLA_FLAGS` that a platform's numbers may depend on."""
    others = tuple(
        prefix for kind, prefix in _PLATFORM_FLAGS.items() if kind != platform
    )
    found = {}
    for word in _words(os.environ.get("XLA_FLAGS", "")):
        name, _, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or name.startswith((*HARMLESS_FLAGS, *others)):
            continue
        # The last of several counts. A flag alone stands for true.
        found[name] = value.lower() if value.lower() in ("true", "false") else value
        found[name] = found[name] or "true"
    return dict(sorted(found.items()))


def _words(text: str) -> list[str]:
    """Returns the words of `XLA_FLAGS`, or of the file that it names."""
    text = text.strip()
    if text and not text.startswith("-"):
        try:
            content = files.read_bytes(text, max_bytes=MAX_FLAGS_BYTES)
        except (OSError, files.FileError):
            return []
        text = content.decode("utf-8", "replace")
    try:
        return shlex.split(text)
    except ValueError:  # a quotation mark that is not closed
        return text.split()


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
