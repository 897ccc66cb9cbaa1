"""All checks, in order: what is said first does not depend on what may hang."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

from cnn_jax.doctor import accelerators, devices, host, processes, versions
from cnn_jax.doctor.child import Answer, ask
from cnn_jax.doctor.datasets import check_data_dir, check_dataset
from cnn_jax.doctor.directories import check_directory
from cnn_jax.doctor.finding import Finding, fault, within
from cnn_jax.doctor.known_faults import judge_known_faults
from cnn_jax.training.devices.processes import DETECT


@dataclasses.dataclass(frozen=True)
class Examination:
    """The parts to look at, beside the host and its devices.

    Attributes:
      data_dir: The directory of prepared sets.
      dataset: A data set.
      split: Its split.
      checkpoint_dir: Where checkpoints are to be kept.
      run_dir: Where a run is to be kept.
      coordinator_address: `host:port` of process 0, or `"auto"`; None for one process.
      num_processes: How many there are to be.
      process_id: Which this is.
      seconds: How long each check may take.
    """

    data_dir: str | None = None
    dataset: str | None = None
    split: str = "train"
    checkpoint_dir: str | None = None
    run_dir: str | None = None
    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    seconds: float = 120.0

    def __post_init__(self) -> None:
        """Raises ValueError unless the three of a group go together."""
        address, numbers = (
            self.coordinator_address,
            (self.num_processes, self.process_id),
        )
        if address in (None, DETECT):
            if numbers != (None, None):
                raise ValueError(
                    f"num_processes, process_id: got {numbers[0]} and {numbers[1]} "
                    f"with coordinator_address {address!r}, expected 'host:port' with "
                    "them."
                )
            return
        host, _, port = (address or "").rpartition(":")
        if not (host and port.isascii() and port.isdecimal() and 0 < int(port) < 2**16):
            raise ValueError(
                f"coordinator_address: got {address!r}, expected 'host:port' or "
                f"{DETECT!r}."
            )
        count, number = numbers
        if count is None or number is None or not 0 <= number < count:
            raise ValueError(
                f"num_processes, process_id: got {count} and {number}, expected the "
                "number of processes, and this one's number below it, from 0."
            )


def examine(wanted: Examination) -> Iterator[Finding]:
    """Makes all checks and yields what each found, as it finds it.

    Nothing that is written stays. JAX is initialised in another process.

    Args:
      wanted: What is to be looked at.
    """
    for check in (
        versions.check_python,
        versions.check_packages,
        versions.check_jaxlib,
        host.check_cores,
        host.check_memory,
        host.check_shared_memory,
        host.check_open_files,
        accelerators.check_tpu,
        accelerators.check_tpu_lock,
        accelerators.check_gpu,
    ):
        yield from _guarded(check, wanted.seconds)
    yield from _examine_files(wanted)
    yield from _examine_devices(wanted)


def _examine_files(wanted: Examination) -> Iterator[Finding]:
    seconds = wanted.seconds
    for name, directory in (
        ("run directory", wanted.run_dir),
        ("checkpoint directory", wanted.checkpoint_dir),
    ):
        if directory is not None:
            check = functools.partial(check_directory, name, directory, seconds)
            yield from _guarded(check, 2 * seconds)
    local = next(
        (
            each
            for each in (wanted.checkpoint_dir, wanted.run_dir)
            if each is not None and "://" not in each
        ),
        None,
    )
    yield from _guarded(lambda: host.check_clock(local), seconds)
    if wanted.data_dir is not None:
        data_dir = wanted.data_dir
        yield from _guarded(lambda: check_data_dir(data_dir, seconds), 2 * seconds)
    if wanted.dataset is not None:
        dataset = wanted.dataset
        yield from _guarded(
            lambda: check_dataset(dataset, wanted.data_dir, wanted.split, seconds),
            2 * seconds,
        )


def _examine_devices(wanted: Examination) -> Iterator[Finding]:
    join: dict[str, Any] | None = None
    if wanted.coordinator_address is not None:
        join = {
            "coordinator_address": wanted.coordinator_address,
            "num_processes": wanted.num_processes,
            "process_id": wanted.process_id,
        }
        if wanted.num_processes is not None and wanted.process_id is not None:
            all_came, findings = processes.check_roll(
                wanted.coordinator_address,
                wanted.num_processes,
                wanted.process_id,
                wanted.seconds,
            )
            yield from findings
            if not all_came:
                join = None
                yield fault(
                    "group",
                    "not tried, since not every process is there; what follows is "
                    "this process alone.",
                    "Mend that first.",
                )
    answer = ask({"join": join, "abort": join is None}, wanted.seconds)
    if join is not None:
        yield processes.check_group(answer, wanted.num_processes)
    yield from _judged(answer)


def _judged(answer: Answer) -> Iterator[Finding]:
    yield from devices.check_devices(answer)
    convolution = devices.check_accelerated_convolution(answer)
    if convolution is not None:
        yield convolution
    yield from devices.check_settings(answer)
    yield devices.check_cache(devices.result_of(answer, "settings"))
    yield from judge_known_faults(
        versions.installed("jax") or "(none)",
        devices.platform_of(answer),
        answer,
    )


def _guarded(check: Callable[[], Any], seconds: float) -> Iterator[Finding]:
    """Yields what a check finds; one that fails itself is a fault, not the end."""
    name = getattr(check, "__name__", "a check").removeprefix("check_")
    try:
        found = within(seconds, lambda: _as_list(check()))
    except Exception as error:
        yield fault(
            name.replace("_", " "),
            f"could not be checked: {type(error).__name__}: {error}",
            "Report it, with this line.",
        )
        return
    yield from found


def _as_list(found: Any) -> list[Finding]:
    return [found] if isinstance(found, Finding) else list(found)
