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
from cnn_jax.doctor.finding import Finding, TookTooLongError, fault, within
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
        try:
            host.strip("[]").encode("idna")
        except UnicodeError as error:
            raise ValueError(
                f"coordinator_address: got {address!r}, expected the name of a host, "
                "each of its parts of 1 to 63 characters."
            ) from error
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
    checks: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("Python", versions.check_python),
        ("packages", versions.check_packages),
        ("jax and its parts", versions.check_jaxlib),
        ("processor", host.check_cores),
        ("memory", host.check_memory),
        ("shared memory", host.check_shared_memory),
        ("open files", host.check_open_files),
        ("TPU", accelerators.check_tpu),
        ("TPU lock file", accelerators.check_tpu_lock),
        ("GPU", accelerators.check_gpu),
    )
    for name, check in checks:
        yield from _guarded(name, check, wanted.seconds)
    yield from _examine_files(wanted)
    yield from _examine_devices(wanted)


def _examine_files(wanted: Examination) -> Iterator[Finding]:
    seconds = wanted.seconds
    usable: list[str] = []
    for name, directory in (
        ("run directory", wanted.run_dir),
        ("checkpoint directory", wanted.checkpoint_dir),
    ):
        if directory is not None:
            check = functools.partial(check_directory, name, directory, seconds)
            findings = list(_guarded(name, check, 2 * seconds))
            yield from findings
            if "://" not in directory and findings[0].verdict != "fault":
                usable.append(directory)
    # One that hangs or cannot be written was named; its clock need not be waited for.
    where = usable[-1] if usable else None
    yield from _guarded("clock", lambda: host.check_clock(where), seconds)
    if wanted.data_dir is not None:
        data_dir = wanted.data_dir
        yield from _guarded(
            "data directory", lambda: check_data_dir(data_dir, seconds), 2 * seconds
        )
    if wanted.dataset is not None:
        dataset = wanted.dataset
        yield from _guarded(
            f"data set {dataset}, {wanted.split}",
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
        all_came, findings = _roll(wanted)
        yield from findings
        if not all_came:
            join = None
            yield fault(
                "group",
                "not tried, since not every process is there; what follows is "
                "this process alone.",
                "Mend that first.",
            )
    try:
        answer = ask({"join": join, "abort": join is None}, wanted.seconds)
    except Exception as error:
        yield _not_checked("devices", error)
        return
    if join is not None:
        yield from _caught(
            "group", lambda: processes.check_group(answer, wanted.num_processes)
        )
    yield from _judged(answer, wanted.seconds)


def _roll(wanted: Examination) -> tuple[bool, list[Finding]]:
    """Calls the roll where the processes are numbered, and says whether all came."""
    address, count, number = (
        wanted.coordinator_address,
        wanted.num_processes,
        wanted.process_id,
    )
    if address is None or count is None or number is None:
        return True, []
    try:
        return processes.check_roll(address, count, number, wanted.seconds)
    except Exception as error:
        return False, [_not_checked("processes", error)]


def _judged(answer: Answer, seconds: float) -> Iterator[Finding]:
    settings = devices.result_of(answer, "settings")
    platform = devices.platform_of(answer)
    version = versions.installed("jax") or "(none)"
    yield from _caught("devices", lambda: devices.check_devices(answer))
    yield from _caught("cuDNN", lambda: devices.check_accelerated_convolution(answer))
    yield from _caught("settings", lambda: devices.check_settings(answer))
    # Its file system may hang.
    yield from _guarded(
        "compilation cache", lambda: devices.check_cache(settings), seconds
    )
    yield from _caught(
        "known faults", lambda: judge_known_faults(version, platform, answer)
    )


def _guarded(name: str, check: Callable[[], Any], seconds: float) -> Iterator[Finding]:
    """Yields what a check finds in its time; one that fails is a fault, not the end."""
    try:
        found = within(seconds, lambda: _as_list(check()))
    except TookTooLongError as error:
        yield fault(
            name,
            f"{error}.",
            "See that the file system is mounted and its server answers.",
        )
        return
    except Exception as error:
        yield _not_checked(name, error)
        return
    yield from found


def _caught(name: str, check: Callable[[], Any]) -> Iterator[Finding]:
    """Yields what a check finds that waits for nothing; a failing one is a fault."""
    try:
        found = check()
        yield from [found] if isinstance(found, Finding) else found or ()
    except Exception as error:
        yield _not_checked(name, error)


def _not_checked(name: str, error: Exception) -> Finding:
    return fault(
        name,
        f"could not be checked: {type(error).__name__}: {error}",
        "Report it, with this line.",
    )


def _as_list(found: Any) -> list[Finding]:
    return [found] if isinstance(found, Finding) else list(found)
