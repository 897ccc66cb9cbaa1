"""Several processes: real ones, on this machine, and what they are called with."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import ten_steps

from cnn_jax.training.devices import processes as hosts

ROOT = pathlib.Path(__file__).parents[3]
PROGRAM = ROOT / "tests" / "helpers" / "ten_steps.py"
NUM_PROCESSES = 2


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


@pytest.fixture
def launch(tmp_path):
    """Starts the processes; returns how each ended and what it wrote to stderr."""
    processes = []

    def start(*arguments, timeout=240):
        address = f"localhost:{free_port()}"
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": os.environ["XLA_FLAGS"]
            + " --xla_force_host_platform_device_count=4",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        }
        for number in range(NUM_PROCESSES):
            command = [sys.executable, PROGRAM, address, NUM_PROCESSES, number]
            with open(tmp_path / f"{number}.err", "wb") as errors:
                processes.append(
                    subprocess.Popen(
                        [str(part) for part in (*command, tmp_path, *arguments)],
                        env=environment,
                        stderr=errors,
                    )
                )
        deadline = time.monotonic() + timeout
        return [
            (
                process.wait(timeout=max(deadline - time.monotonic(), 0.1)),
                (tmp_path / f"{number}.err").read_text(),
            )
            for number, process in enumerate(processes)
        ]

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_two_processes_do_what_one_does(launch, tmp_path, x64):
    for code, errors in launch():
        assert code == 0, errors
    expected = ten_steps.run(ten_steps.on_one_device(), np.float64)
    for strategy in ("jit", "shard_map"):
        found = dict(np.load(tmp_path / f"{strategy}.npz"))
        differences = ten_steps.relative_differences(found, expected)
        assert max(differences.values()) < 1e-10, (strategy, differences)


@pytest.mark.nightly
def test_one_that_fails_takes_the_others_along(launch):
    results = launch("FAIL")
    assert all(code != 0 for code, _ in results)
    assert "as asked" in results[-1][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_processes": 2}, "coordinator_address: got None"),
        ({"coordinator_address": "host"}, "expected 'host:port'"),
        ({"coordinator_address": "host:x"}, "expected 'host:port'"),
        ({"coordinator_address": "host:1"}, "num_processes, process_id: got None"),
        (
            {"coordinator_address": "host:1", "num_processes": 2, "process_id": 2},
            "got 2 and 2",
        ),
        ({"coordinator_address": "auto", "process_id": 0}, "found as well"),
        ({"heartbeat_timeout_seconds": 100}, "expected 1 to 20"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        hosts.initialize_hosts(**arguments)


def test_one_process_needs_no_connection():
    with hosts.connected_hosts():
        hosts.wait_for_hosts("anything")
        assert hosts.is_main_process()
