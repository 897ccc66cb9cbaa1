"""A run of several processes, usually one on each host.

All processes run the same program; `jax.devices()` are then the devices of all, and a
mesh over them makes one computation of it. Process 0 alone writes files and logs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import numpy as np

DETECT = "auto"
"""The coordinator's address that asks Cloud TPU, GKE, Slurm or Open MPI for it."""


def initialize_hosts(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_timeout_seconds: int = 20,
) -> None:
    """Connects this process with the others, before anything is computed.

    Args:
      coordinator_address: `"host:port"` of process 0; `"auto"` to find it, and the two
        numbers, through Cloud TPU, GKE, Slurm or Open MPI, as JAX can; None for a run
        of one process, for which nothing is done.
      num_processes: The number of processes.
      process_id: This one's number, from 0.
      heartbeat_timeout_seconds: How long a process may be silent, or late at the end,
        before all others give up: at most 20, so that no host waits for a dead one.

    Raises:
      ValueError: If only some of the three are given, or they do not go together.
      RuntimeError: If JAX has computed something already.
    """
    given = (coordinator_address, num_processes, process_id)
    if coordinator_address is None and given != (None, None, None):
        raise ValueError(
            f"coordinator_address: got None with num_processes {num_processes} and "
            f"process_id {process_id}, expected 'host:port' or {DETECT!r}."
        )
    if not 1 <= heartbeat_timeout_seconds <= 20:
        raise ValueError(
            f"heartbeat_timeout_seconds: got {heartbeat_timeout_seconds}, expected 1 "
            "to 20."
        )
    if coordinator_address is None:
        return
    if coordinator_address == DETECT:
        if given != (DETECT, None, None):
            raise ValueError(
                f"coordinator_address: got {DETECT!r} with num_processes "
                f"{num_processes} and process_id {process_id}, which are found as "
                "well; expected None for both."
            )
        coordinator_address = None
    else:
        _check_explicit(coordinator_address, num_processes, process_id)
    jax.distributed.initialize(
        coordinator_address,
        num_processes,
        process_id,
        cluster_detection_method="deactivate" if coordinator_address else None,
        heartbeat_timeout_seconds=heartbeat_timeout_seconds,
        # A process that failed waits for the others on its way out, as long as this.
        shutdown_timeout_seconds=heartbeat_timeout_seconds,
    )


@contextlib.contextmanager
def connected_hosts(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_timeout_seconds: int = 20,
) -> Iterator[None]:
    """Connects the processes for the duration of a run, and ends them together.

    At the end every process waits until all have arrived: the first to finish takes
    nothing away from the last. One that fails does not wait; its error goes on, and
    the others are told within `heartbeat_timeout_seconds`.

    Args:
      coordinator_address: As for `initialize_hosts`, like all that follow.
      num_processes: The number of processes.
      process_id: This one's number.
      heartbeat_timeout_seconds: The longest silence.
    """
    initialize_hosts(
        coordinator_address,
        num_processes,
        process_id,
        heartbeat_timeout_seconds=heartbeat_timeout_seconds,
    )
    yield
    wait_for_hosts("end of the run")
    if coordinator_address is not None:
        jax.distributed.shutdown()


def is_main_process() -> bool:
    """Returns whether this process writes the logs and files of the run."""
    return jax.process_index() == 0


def wait_for_hosts(name: str) -> None:
    """Waits until every process has come here.

    Args:
      name: What they wait at, the same in all of them.
    """
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def gather_texts(text: str) -> list[str]:
    """Returns a text of every process, in all of them; each makes this call."""
    if jax.process_count() == 1:
        return [text]
    from jax.experimental import multihost_utils

    mine = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.asarray(len(mine), np.int32))
    padded = np.zeros(int(max(lengths)), np.uint8)
    padded[: len(mine)] = mine
    gathered = np.asarray(multihost_utils.process_allgather(padded))
    return [
        row[:length].tobytes().decode()
        for row, length in zip(gathered, lengths, strict=True)
    ]


def _check_explicit(
    coordinator_address: str, num_processes: int | None, process_id: int | None
) -> None:
    host, _, port = coordinator_address.rpartition(":")
    if not (host and port.isascii() and port.isdigit()):
        raise ValueError(
            f"coordinator_address: got {coordinator_address!r}, expected 'host:port' "
            f"or {DETECT!r}."
        )
    if (
        num_processes is None
        or process_id is None
        or not 0 <= process_id < num_processes
    ):
        raise ValueError(
            f"num_processes, process_id: got {num_processes} and {process_id} with "
            f"coordinator_address {coordinator_address!r}, expected the number of "
            "processes, and this one's number below it."
        )
