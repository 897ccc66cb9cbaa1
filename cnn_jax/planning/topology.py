"""A slice of a TPU pod to compile for. With `jax[tpu]` installed it need not be there.

What libtpu and jax read from the environment they read once: `prepare_environment`
comes before the first of jax's devices is asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any, Literal

import jax

from cnn_jax.chips import CHIPS, Chip
from cnn_jax.ranges import shown

EXAMPLES = "v5e:2x4, v5e:16x16, v4:8x8x16, or cpu:8 for simulated devices"

INSTALL = 'pip install "cnn_jax[tpu]"'
"""The command that brings libtpu."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice, or a number of simulated CPU devices.

    Attributes:
      name: As it was given: `"v5e:2x4"`.
      chip: Its chips; None for CPUs, of which nothing is known.
      shape: Chips along each dimension.
    """

    name: str
    chip: Chip | None
    shape: tuple[int, ...]

    @property
    def num_chips(self) -> int:
        """The number of chips."""
        return math.prod(self.shape)

    @property
    def platform(self) -> Literal["cpu", "tpu"]:
        """The platform, as `kernels.target_platform` takes it."""
        return "cpu" if self.chip is None else "tpu"


def parse_topology(text: str) -> Topology:
    """Reads a topology.

    Args:
      text: The chip and the chips along each dimension, such as `"v5e:16x16"` or
        `"v4:8x8x16"`; `"cpu:8"` for simulated devices.

    Raises:
      ValueError: If it is none.
    """
    match = re.fullmatch(r"([a-z0-9]{2,8}):(\d{1,5}(?:x\d{1,5}){0,2})", text)
    name = match[1] if match else ""
    shape = tuple(map(int, match[2].split("x"))) if match else ()
    is_cpu = name == "cpu" and len(shape) == 1
    is_slice = name in CHIPS and len(shape) > 1
    if min(shape, default=0) < 1 or not (is_cpu or is_slice):
        raise ValueError(
            f"topology: got {shown(text)}, expected one of {', '.join(CHIPS)} and its "
            f"chips along two or three dimensions, such as {EXAMPLES}."
        )
    found = Topology(text, CHIPS.get(name), shape)
    if (
        found.chip is not None
        and max(shape[found.chip.num_dimensions :], default=1) > 1
    ):
        raise ValueError(
            f"topology: got {text}, which has {len(shape)} dimensions; expected "
            f"{found.chip.num_dimensions}, as slices of {name} have, such as "
            f"{name}:4x4."
        )
    most = 1024 if found.chip is None else found.chip.max_chips
    if found.num_chips > most:
        raise ValueError(
            f"topology: got {text}, which is {found.num_chips:,} chips; expected at "
            f"most {most:,}, the largest slice of {name} there is."
        )
    return found


def prepare_environment() -> None:
    """Lets libtpu compile on a machine without a TPU, on which jax uses the CPU.

    Settings that are made already stay. Where jax is imported already, its platform is
    set as far as no device of it was asked for.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # Compilers may run side by side: it is the chip that only one process can have.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    if not getattr(jax.config, "jax_platforms", None):
        jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])


def find_devices(topology: Topology) -> Sequence[Any]:
    """Returns the devices of a topology.

    Args:
      topology: A slice, which need not be there, or CPUs. So many of these are there
        if no device of jax was asked for yet, or XLA_FLAGS says so.

    Returns:
      `jax.Device`s: the chips, or their cores where jax has a device for each.

    Raises:
      ImportError: If libtpu is not installed.
      ValueError: If libtpu does not know the slice, or there are fewer CPU devices.
    """
    if topology.platform == "cpu":
        return _cpu_devices(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise ImportError(
            f"topology: got {topology.name}, and libtpu, the compiler for it, is not "
            f"installed; expected it to be: {INSTALL}"
        )
    from jax.experimental import topologies

    options = {}
    if topology.chip is not None and topology.chip.name == "v4":
        # A v4's two cores are one device of jax's, which refuses a mesh of cores.
        options["chip_config_name"] = "megacore"
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=topology.name, **options
        )
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"topology: got {topology.name}, which libtpu refuses ({reason}); expected "
            f"one that it knows, such as {EXAMPLES}."
        ) from error
    return tuple(description.devices)


def _cpu_devices(topology: Topology) -> Sequence[Any]:
    number = topology.num_chips
    with contextlib.suppress(RuntimeError):  # jax may have its devices already
        jax.config.update("jax_num_cpu_devices", number)
    found = jax.devices("cpu")
    if len(found) < number:
        raise ValueError(
            f"topology: got {topology.name}, and this process has {len(found)} CPU "
            "devices already; expected no more, or XLA_FLAGS="
            f"--xla_force_host_platform_device_count={number} around the command."
        )
    return tuple(found[:number])
