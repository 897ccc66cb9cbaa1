"""A slice of a TPU pod to compile for. With `jax[tpu]` installed it need not be there.

Imported before jax, which reads its environment once.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from typing import Any


def is_asked_for(arguments: Sequence[str] | None = None) -> bool:
    """Returns whether a command line, else this program's, says `--platform tpu`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--platform")
    return parser.parse_known_args(arguments)[0].platform == "tpu"


def prepare_environment() -> None:
    """Lets libtpu compile on a machine without a TPU, on which jax uses the CPU."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # Compilers may run side by side: it is the chip that only one process can have.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")


def find_devices(topology: str) -> list[Any]:
    """Returns the devices of a slice such as `v5e:2x4`."""
    from jax.experimental import topologies

    description = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    return list(description.devices)


def sum_cycles(hlo: str) -> tuple[int, int]:
    """Sums what the TPU compiler wrote beside each instruction of a program.

    Returns:
      The sum of its estimates, and how many windowed reductions stand without one, as
      those in bfloat16 mostly do.
    """
    entry = hlo[hlo.find("ENTRY") :].splitlines()
    num_unknown = sum(
        " reduce-window(" in line and "estimated_cycles" not in line for line in entry
    )
    return sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', hlo))), num_unknown
