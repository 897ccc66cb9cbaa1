"""The roll of a run's processes: each says at one address that it has started.

JAX's own service ends a process when another is missing and does not say which. So the
processes call the roll before: process 0 listens where JAX's coordinator would, and the
others tell it their number, versions and clock. All learn who came. The messages are
lines of JSON; nothing of them is run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

_KIND = "cnn_jax doctor"
_LONGEST = 2**16
"""Bytes of a line."""

_PAUSE = 0.2
"""Seconds between two attempts to connect."""

ANSWER_SECONDS = 10.0
"""The longest that the others wait for the roll once their own time is over."""


@dataclasses.dataclass(frozen=True)
class Roll:
    """Who came.

    Attributes:
      facts: What each process said of itself, by its number.
      ahead: Seconds by which its clock is ahead of that of process 0, by its number.
      problems: What was refused: a number twice, or another count of processes.
    """

    facts: dict[int, dict[str, Any]]
    ahead: dict[int, float]
    problems: tuple[str, ...]


class NoCoordinatorError(OSError):
    """Process 0 did not answer."""


def call_roll(
    address: str,
    num_processes: int,
    process_id: int,
    facts: Mapping[str, Any],
    seconds: float,
) -> Roll:
    """Says that this process is there, and returns who else is.

    Args:
      address: `host:port` of process 0.
      num_processes: How many there are to be.
      process_id: The number of this one.
      facts: What it says of itself, for JSON.
      seconds: How long to wait for all.

    Raises:
      NoCoordinatorError: If process 0 does not answer.
      OSError: If process 0 cannot listen at its address.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    deadline = time.monotonic() + seconds
    if process_id == 0:
        return _listen(int(port), num_processes, dict(facts), deadline)
    hello = {"kind": _KIND, "id": process_id, "count": num_processes, "facts": facts}
    with contextlib.closing(_connect(host, int(port), deadline)) as connection:
        try:
            return _attend(connection, hello, deadline)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NoCoordinatorError(
                f"what listens at {address} is not process 0 of doctor, or it ended: "
                f"{error}"
            ) from error


def _attend(
    connection: socket.socket, hello: Mapping[str, Any], deadline: float
) -> Roll:
    # Process 0 answers when its own time is over, which began at another moment.
    connection.settimeout(max(deadline - time.monotonic(), 0.0) + ANSWER_SECONDS)
    with connection.makefile("rwb") as lines:
        _send(lines, hello)
        _receive(lines)
        before = time.time()
        _send(lines, {"clock": True})
        there = float(_receive(lines)["time"])
        after = time.time()
        _send(lines, {"ahead": (before + after) / 2 - there})
        roll = _receive(lines)
    return Roll(
        {int(number): dict(each) for number, each in roll["facts"].items()},
        {int(number): float(each) for number, each in roll["ahead"].items()},
        tuple(map(str, roll["problems"])),
    )


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    while True:
        left = deadline - time.monotonic()
        try:
            return socket.create_connection((host, port), timeout=max(left, 0.1))
        except UnicodeError as error:  # a part of it is empty or too long
            raise NoCoordinatorError(
                f"{host} is no name of a host ({error})"
            ) from error
        except OSError as error:
            if left <= _PAUSE:
                raise NoCoordinatorError(
                    f"process 0 does not listen at {host}:{port} ({error})"
                ) from error
            time.sleep(_PAUSE)


def _listen(
    port: int, num_processes: int, facts: dict[str, Any], deadline: float
) -> Roll:
    attendance = _Attendance(num_processes, facts)
    # As JAX's service does, on every address of the host.
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with socket.create_server(
        ("", port),
        family=family,
        dualstack_ipv6=family == socket.AF_INET6,
        reuse_port=False,
    ) as server:
        threads = []
        while not attendance.is_complete.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                break
            server.settimeout(min(left, _PAUSE))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(
                target=attendance.welcome, args=(connection, deadline), daemon=True
            )
            thread.start()
            threads.append(thread)
        attendance.close()
        for thread in threads:
            thread.join(ANSWER_SECONDS)
    return attendance.roll


class _Attendance:
    """The list that process 0 keeps."""

    def __init__(self, num_processes: int, facts: dict[str, Any]):
        self._count = num_processes
        self._facts: dict[int, dict[str, Any]] = {0: facts}
        self._ahead: dict[int, float] = {0: 0.0}
        self._problems: list[str] = []
        self._lock, self._closed = threading.Lock(), threading.Event()
        self.is_complete = threading.Event()
        if num_processes == 1:
            self.is_complete.set()

    def close(self) -> None:
        with self._lock:
            self.roll = Roll(
                dict(sorted(self._facts.items())),
                dict(sorted(self._ahead.items())),
                tuple(self._problems),
            )
        self._closed.set()

    def welcome(self, connection: socket.socket, deadline: float) -> None:
        """Notes one process and tells it, in the end, who came."""
        # Whatever connects may send anything.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError), connection:
            left = max(deadline - time.monotonic(), 0.1)
            connection.settimeout(left)
            with connection.makefile("rwb") as lines:
                hello = _receive(lines)
                if hello["kind"] != _KIND:
                    return
                _send(lines, {"welcome": True})
                _receive(lines)
                _send(lines, {"time": time.time()})
                ahead = float(_receive(lines)["ahead"])
                self._note(int(hello["id"]), hello["count"], hello["facts"], ahead)
                self._closed.wait(left + 1)
                _send(lines, dataclasses.asdict(self.roll))
                # The other side closes first: the port is then free for JAX's service.
                connection.settimeout(1)
                lines.read(1)

    def _note(self, number: int, count: int, facts: Any, ahead: float) -> None:
        with self._lock:
            if count != self._count:
                self._problems.append(
                    f"process {number} was started with --num-processes {count}, "
                    f"process 0 with {self._count}"
                )
            elif not 0 < number < self._count or number in self._facts:
                self._problems.append(f"--process-id {number} was given twice")
            else:
                self._facts[number], self._ahead[number] = dict(facts), ahead
            if len(self._facts) == self._count:
                self.is_complete.set()


def _send(lines: Any, message: Mapping[str, Any]) -> None:
    lines.write((json.dumps(message) + "\n").encode())
    lines.flush()


def _receive(lines: Any) -> dict[str, Any]:
    line = lines.readline(_LONGEST)
    if not line.endswith(b"\n"):
        raise ValueError("the connection was closed")
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("expected an object")
    return message
