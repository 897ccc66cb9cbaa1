"""The processes of a run: who started, what differs between them."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from cnn_jax.doctor.child import Answer
from cnn_jax.doctor.devices import result_of
from cnn_jax.doctor.finding import Finding, counted, fault, ok, warning
from cnn_jax.doctor.host import CLOCK_TOLERANCE
from cnn_jax.doctor.roll_call import NoCoordinatorError, Roll, call_roll
from cnn_jax.doctor.versions import all_versions

_SETTINGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_PLATFORMS", "JAX_ENABLE_X64")
_HARMLESS = ("host",)


def own_facts() -> dict[str, Any]:
    """Returns what this process says of itself to the others."""
    settings = {name: os.environ[name] for name in _SETTINGS if name in os.environ}
    return {**all_versions(), **settings, "host": socket.gethostname()}


def check_roll(
    address: str,
    num_processes: int,
    process_id: int,
    seconds: float,
) -> tuple[bool, list[Finding]]:
    """Calls the roll; returns whether all came, and the findings."""
    name = "processes"
    try:
        roll = call_roll(address, num_processes, process_id, own_facts(), seconds)
    except NoCoordinatorError as error:
        return False, [
            fault(
                name,
                f"process 0 did not answer within {seconds:.0f} s: {error}.",
                "Start doctor in process 0 too, at the same time, and see that the "
                "address is its own and that no firewall closes the port.",
            )
        ]
    except OSError as error:
        return False, [
            fault(
                name,
                f"process 0 cannot listen at {address}: {error.strerror or error}.",
                "Choose another port, or end the process that has it.",
            )
        ]
    return _findings(roll, num_processes, seconds)


def check_group(answer: Answer, num_processes: int | None) -> Finding:
    """Judges whether jax connected the processes, and they exchanged a text."""
    name = "group"
    joined = result_of(answer, "join")
    if joined is None:
        why = (answer.found.get("join") or {}).get("error") or answer.problem
        return fault(
            name,
            f"jax did not connect the processes: {why}.",
            "Start doctor in all of them at the same time, with the same address.",
        )
    count = joined["count"]
    connected = f"jax connected {counted(count, 'process', 'processes')}"
    if num_processes is not None and count != num_processes:
        return fault(
            name,
            f"{connected}, expected {num_processes}.",
            "Give the same --num-processes to all.",
        )
    texts = result_of(answer, "group")
    if texts is None or sorted(map(int, texts)) != list(range(count)):
        why = (answer.found.get("group") or {}).get("error") or answer.problem
        return fault(
            name,
            f"{connected}, which cannot exchange a text: {why}.",
            "See that the hosts reach each other at all ports, not the coordinator's "
            "alone.",
        )
    return ok(
        name,
        f"{connected}, which exchanged a text.",
    )


def _findings(
    roll: Roll, num_processes: int, seconds: float
) -> tuple[bool, list[Finding]]:
    name = "processes"
    missing = [each for each in range(num_processes) if each not in roll.facts]
    findings = []
    for problem in roll.problems:
        findings.append(
            fault(name, f"{problem}.", "Give each process its own number, from 0.")
        )
    if missing:
        numbers = ", ".join(map(str, missing))
        verb = "has" if len(missing) == 1 else "have"
        findings.append(
            fault(
                name,
                f"process {numbers} of {num_processes} {verb} not started within "
                f"{seconds:.0f} s.",
                "Start doctor there at the same time; if it was, that host does not "
                "reach process 0.",
            )
        )
    elif not findings:
        all_of = (
            f"all {num_processes} have" if num_processes > 1 else "the only one has"
        )
        findings.append(ok(name, f"{all_of} started."))
    findings += [_versions(roll.facts), _clocks(roll.ahead)]
    return not missing and not roll.problems, findings


def _versions(facts: Mapping[int, Mapping[str, Any]]) -> Finding:
    name = "versions among processes"
    keys = dict.fromkeys(key for each in facts.values() for key in each)
    differing = []
    for key in keys:
        values: dict[str, list[int]] = {}
        for number, each in facts.items():
            values.setdefault(str(each.get(key, "missing")), []).append(number)
        if len(values) > 1 and key not in _HARMLESS:
            texts = [
                f"{value} in {', '.join(map(str, numbers))}"
                for value, numbers in values.items()
            ]
            differing.append(f"{key}: {'; '.join(texts)}")
    if differing:
        return fault(
            name,
            f"they differ: {' | '.join(differing)}.",
            "Install the same versions and set the same variables on all hosts.",
        )
    return ok(name, f"the same in {counted(len(facts), 'process', 'processes')}.")


def _clocks(ahead: Mapping[int, float]) -> Finding:
    name = "clocks among processes"
    skew = max(ahead.values()) - min(ahead.values())
    sentence = f"at most {skew:.2f} s apart."
    if skew > CLOCK_TOLERANCE:
        first, last = min(ahead, key=ahead.get), max(ahead, key=ahead.get)  # type: ignore[arg-type]
        return warning(
            name,
            f"{sentence} That of process {last} is ahead, that of {first} behind.",
            "Synchronise them (NTP): logs and retention go by them.",
        )
    return ok(name, sentence)
