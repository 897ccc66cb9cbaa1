"""Processes that say they are there, and those that do not."""

import concurrent.futures
import json
import socket
import time

import pytest

from cnn_jax.doctor import processes, roll_call
from cnn_jax.doctor.roll_call import NoCoordinatorError, call_roll


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def call_all(numbers, count, seconds=60.0, facts=lambda number: {"jax": "1"}):
    """Has processes, threads here, call the roll; returns what each gets."""
    address = f"localhost:{free_port()}"
    with concurrent.futures.ThreadPoolExecutor(len(numbers)) as pool:
        calls = [
            pool.submit(call_roll, address, count, number, facts(number), seconds)
            for number in numbers
        ]
    return [call.result() for call in calls]


def test_all_learn_who_came():
    rolls = call_all([2, 0, 1], 3, facts=lambda number: {"host": f"h{number}"})
    for roll in rolls:
        assert roll.facts == {number: {"host": f"h{number}"} for number in range(3)}
        assert not roll.problems
        assert max(map(abs, roll.ahead.values())) < 60


def test_one_process_waits_for_nobody():
    (roll,) = call_all([0], 1)
    assert list(roll.facts) == [0]


def test_a_process_that_does_not_start_is_named():
    rolls = call_all([0, 2], 4, seconds=2.0)
    assert [sorted(roll.facts) for roll in rolls] == [[0, 2], [0, 2]]
    all_came, findings = processes._findings(rolls[1], 4, 2.0)
    assert not all_came
    assert findings[0].verdict == "fault"
    assert findings[0].sentence == "process 1, 3 of 4 have not started within 2 s."


def test_a_number_that_is_given_twice_is_named():
    rolls = call_all([0, 1, 1], 3, seconds=2.0)
    assert all("--process-id 1 was given twice" in roll.problems for roll in rolls)


def test_another_count_is_named():
    address = f"localhost:{free_port()}"
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(call_roll, address, 2, 0, {}, 2.0)
        pool.submit(call_roll, address, 3, 1, {}, 2.0)
    (problem,) = first.result().problems
    assert problem == ("process 1 was started with --num-processes 3, process 0 with 2")


def test_without_process_0_the_others_say_so():
    with pytest.raises(NoCoordinatorError, match="does not listen"):
        call_roll(f"localhost:{free_port()}", 2, 1, {}, 0.5)


def test_another_program_at_the_address_is_not_process_0():
    with socket.create_server(("localhost", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            call = pool.submit(call_roll, address, 2, 1, {}, 30.0)
            connection, _ = server.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()
            with pytest.raises(NoCoordinatorError, match="is not process 0"):
                call.result()


def test_what_is_no_process_of_the_run_is_passed_over():
    port = free_port()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(call_roll, f"localhost:{port}", 2, 0, {"a": 1}, 60.0)
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"kind": 3}\n'):
            for _ in range(300):
                try:
                    stranger = socket.create_connection(("localhost", port), 1)
                    break
                except OSError:
                    time.sleep(0.05)
            with stranger:
                stranger.sendall(garbage)
        second = pool.submit(call_roll, f"localhost:{port}", 2, 1, {"a": 2}, 60.0)
    assert first.result() == second.result()
    assert first.result().facts == {0: {"a": 1}, 1: {"a": 2}}


def test_an_address_that_is_taken_is_a_fault():
    with socket.create_server(("", 0)) as taken:
        address = f"localhost:{taken.getsockname()[1]}"
        all_came, (found,) = processes.check_roll(address, 2, 0, 1.0)
    assert not all_came
    assert "cannot listen" in found.sentence


def test_a_clock_that_is_ahead_is_a_warning(monkeypatch):
    """Process 1's, by an hour: it is asked between two looks at it."""

    class Shifted:
        monotonic, sleep = staticmethod(time.monotonic), staticmethod(time.sleep)

        @staticmethod
        def time():
            return time.time() + 3600

    real = roll_call._attend

    def attend(connection, hello, deadline):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(roll_call, "time", Shifted)
            # What process 0 says of its own clock is not shifted.
            patch.setattr(
                roll_call,
                "_send",
                lambda lines, message: send(lines, message | unshifted(message)),
            )
            return real(connection, hello, deadline)

    send = roll_call._send

    def unshifted(message):
        return {"time": time.time()} if "time" in message else {}

    monkeypatch.setattr(roll_call, "_attend", attend)
    roll, _ = call_all([0, 1], 2)
    assert 3590 < roll.ahead[1] < 3610
    found = processes._clocks(roll.ahead)
    assert found.verdict == "warning"
    assert "process 1 is ahead, that of 0 behind" in found.sentence


def test_versions_that_differ_are_a_fault():
    found = processes._versions(
        {
            0: {"jax": "0.12.0", "host": "a"},
            1: {"jax": "0.10.2", "host": "b", "XLA_FLAGS": "--x"},
            2: {"jax": "0.12.0", "host": "c"},
        }
    )
    assert found.verdict == "fault"
    assert "jax: 0.12.0 in 0, 2; 0.10.2 in 1" in found.sentence
    assert "XLA_FLAGS: missing in 0, 2; --x in 1" in found.sentence
    assert "host" not in found.sentence
    same = processes._versions({0: {"jax": "1", "host": "a"}, 1: {"jax": "1"}})
    assert same.verdict == "ok"


def test_what_a_process_says_fits_into_a_line():
    assert len(json.dumps(processes.own_facts())) < roll_call._LONGEST / 8


def test_a_name_that_no_host_can_have_is_an_answer():
    with pytest.raises(NoCoordinatorError, match="no name of a host"):
        call_roll("host..x:1234", 2, 1, {}, 5.0)
    all_came, (found,) = processes.check_roll("host..x:1234", 2, 1, 5.0)
    assert (all_came, found.verdict) == (False, "fault")


def test_one_process_is_not_many():
    (roll,) = call_all([0], 1)
    _, findings = processes._findings(roll, 1, 1.0)
    assert findings[0].sentence == "the only one has started."
    assert findings[1].sentence == "the same in 1 process."
