"""Accelerators of this host, and what jax needs to use them, without jax."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

from cnn_jax.doctor.finding import Finding, counted, fault, ok, warning
from cnn_jax.doctor.versions import installed

LOCK_FILE = pathlib.Path("/tmp/libtpu_lockfile")
"""The file that libtpu locks: one process alone may use a host's TPU."""

PCI = pathlib.Path("/sys/bus/pci/devices")
LOCKS = pathlib.Path("/proc/locks")

_GOOGLE = "0x1ae0"
_TPUS = (
    *("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"),
    *("0x0083", "0x007c"),
)
"""Device numbers of TPUs; those of jax 0.12 (`jax/_src/hardware_utils.py`). Google's
network cards have the same vendor."""

_NVIDIA = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")
"""One of them is there if an NVIDIA GPU is (`jax/_src/hardware_utils.py`)."""

_CUDA_PLUGINS = ("jax-cuda13-plugin", "jax-cuda12-plugin")


def num_tpu_chips() -> int:
    """Returns how many TPU chips are attached to this host."""
    found = 0
    for vendor in PCI.glob("*.0/vendor"):
        device = vendor.with_name("device")
        is_google = _text(vendor) == _GOOGLE
        found += is_google and _text(device) in _TPUS
    return found


def check_tpu() -> Finding:
    """Checks that libtpu and TPU chips are there together."""
    name, chips, libtpu = "TPU", num_tpu_chips(), installed("libtpu")
    if chips and libtpu is None:
        return fault(
            name,
            f"{_attached(chips)}, and libtpu is not installed, so jax computes "
            "on the CPU.",
            "Run `python -m pip install -U 'jax[tpu]'`.",
        )
    if libtpu is not None and not chips:
        if os.environ.get("JAX_PLATFORMS") == "cpu":
            return ok(
                name,
                f"libtpu {libtpu} is installed, no chip is attached, and "
                "JAX_PLATFORMS=cpu has jax not look for one.",
            )
        return warning(
            name,
            f"libtpu {libtpu} is installed and no chip is attached: jax looks for one "
            "and may print errors, or wait.",
            "Set JAX_PLATFORMS=cpu on a host without a TPU.",
        )
    if chips:
        return ok(name, f"{_attached(chips)}, libtpu {libtpu} is installed.")
    return ok(name, "no chip is attached, and libtpu is not installed.")


def check_tpu_lock() -> Finding:
    """Checks that no other process holds the TPU.

    Without a chip it is a warning: runs on the CPU work.
    """
    name = "TPU lock file"
    refused = fault if num_tpu_chips() else warning
    try:
        status = LOCK_FILE.stat()
    except FileNotFoundError:
        return ok(name, f"{LOCK_FILE} is not there: no process has used a TPU.")
    except OSError as error:
        return warning(
            name, f"{LOCK_FILE}: {error.strerror}.", f"Remove it: sudo rm {LOCK_FILE}"
        )
    holders = [pid for pid in _holders(status) if pid != os.getpid()]
    if holders:
        who = " and ".join(map(_process, holders))
        return refused(
            name,
            f"{LOCK_FILE} is locked by {who}: libtpu refuses a second process.",
            "Wait for that process or end it.",
        )
    if not os.access(LOCK_FILE, os.R_OK | os.W_OK):
        return refused(
            name,
            f"{LOCK_FILE} is of user {status.st_uid} and cannot be written, which "
            "libtpu takes for a TPU in use.",
            f"Remove it: sudo rm {LOCK_FILE}",
        )
    return ok(name, f"{LOCK_FILE} was left behind and nobody holds it.")


def check_gpu() -> Finding:
    """Checks that NVIDIA GPUs and jax's plugin for them are there together."""
    name = "GPU"
    present = any(map(os.path.exists, _NVIDIA))
    plugins = [f"{each} {installed(each)}" for each in _CUDA_PLUGINS if installed(each)]
    if present and not plugins:
        return warning(
            name,
            "an NVIDIA GPU is attached, and no CUDA plugin of jax is installed, so jax "
            "computes on the CPU.",
            "Run `python -m pip install -U 'jax[cuda13]'`.",
        )
    if plugins and not present:
        return warning(
            name,
            f"{', '.join(plugins)} is installed and no NVIDIA GPU is attached.",
            "Start the container with its GPUs (`docker run --gpus all`), or uninstall "
            "the plugin.",
        )
    if len(plugins) > 1:
        return fault(
            name,
            f"got {' and '.join(plugins)}, expected one of them.",
            "Uninstall the one that does not fit the driver.",
        )
    if plugins:
        return ok(name, f"a GPU is attached, {plugins[0]} is installed.")
    return ok(name, "no NVIDIA GPU is attached, and no CUDA plugin is installed.")


def _attached(chips: int) -> str:
    return f"{counted(chips, 'chip')} {'is' if chips == 1 else 'are'} attached"


def _holders(status: os.stat_result) -> Iterator[int]:
    """Yields the processes that have a file locked, as far as the system says."""
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    for line in _text(LOCKS).splitlines():
        words = line.split()
        if "->" in words or len(words) < 6:  # it waits for the lock
            continue
        if words[5] == f"{device}:{status.st_ino}" and words[4].isdigit():
            yield int(words[4])


def _process(pid: int) -> str:
    command = _text(pathlib.Path(f"/proc/{pid}/cmdline")).replace("\0", " ").strip()
    return f"process {pid}" + (f" ({command[:80]})" if command else "")


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
