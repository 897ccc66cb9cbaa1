"""Runs of two processes: stopped, killed and continued, they end bitwise equal."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from helpers.run_files import read_end, read_metrics
from training.devices.test_processes import free_port

ROOT = pathlib.Path(__file__).parents[3]
OPTIONS = [
    *("--model", "lenet5", "--dataset", "digits", "--no-flip", "--epochs", "6"),
    *("--batch-size", "64", "--learning-rate", "0.1", "--log-every-steps", "1"),
    *("--validation-fraction", "0.02", "--checkpoint-every-steps", "6"),
    *("--mesh", "data=2,fsdp=2"),
]
NUM_STEPS = 6 * 22


class HostRun:
    """Two processes of one run, two devices each."""

    def __init__(self, run_dir, *options):
        self.metrics = run_dir / "metrics.jsonl"
        address = f"localhost:{free_port()}"
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": os.environ["XLA_FLAGS"]
            + " --xla_force_host_platform_device_count=2",
        }
        self.processes = []
        for number in range(2):
            hosts = {
                "--coordinator-address": address,
                "--num-processes": 2,
                "--process-id": number,
                "--run-dir": run_dir,
            }
            command = [sys.executable, "experiments/cifar10_resnet20.py", *OPTIONS]
            command += [str(part) for pair in hosts.items() for part in pair]
            self.processes.append(
                subprocess.Popen(
                    [*command, *options],
                    cwd=ROOT,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )

    def wait_for_step(self, step):
        """Returns when a step behind `step` is logged."""
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            assert all(process.poll() is None for process in self.processes)
            if self.metrics.exists():
                lines = self.metrics.read_text().splitlines(keepends=True)
                whole = [json.loads(line) for line in lines if line.endswith("\n")]
                if whole and whole[-1]["step"] > step:
                    return
            time.sleep(0.005)
        raise TimeoutError(self.metrics)

    def end(self, timeout=240):
        """Returns the exit codes and what was printed."""
        deadline = time.monotonic() + timeout
        printed = [
            process.communicate(timeout=max(deadline - time.monotonic(), 0.1))[0]
            for process in self.processes
        ]
        return [process.returncode for process in self.processes], "\n".join(printed)

    def kill(self):
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def launch():
    runs = []

    def start(run_dir, *options):
        runs.append(HostRun(run_dir, *options))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()


@pytest.mark.nightly
def test_stopped_and_killed_and_continued_they_end_as_if_left_alone(launch, tmp_path):
    alone, broken = tmp_path / "alone", tmp_path / "broken"
    codes, printed = launch(alone).end()
    assert codes == [0, 0], printed
    # The main process alone speaks.
    assert printed.count("result in ") == 1
    assert printed.count("epoch 6/") == 1

    run = launch(broken)
    run.wait_for_step(15)
    run.processes[1].send_signal(signal.SIGTERM)
    codes, printed = run.end(timeout=60)
    assert codes == [75, 75], printed
    assert "stopped and saved at step" in printed

    for number, step in ((0, 40), (1, 75)):
        run = launch(broken, "--resume")
        run.wait_for_step(step)
        run.processes[number].kill()
        started = time.monotonic()
        codes, printed = run.end(timeout=60)
        assert time.monotonic() - started < 30, printed
        assert codes[number] == -signal.SIGKILL
        assert codes[1 - number] != 0

    codes, printed = launch(broken, "--resume").end()
    assert codes == [0, 0], printed
    assert "Resuming at step" in printed
    assert read_end(broken) == read_end(alone)
    one = run_alone_in_one_process(tmp_path / "one")
    two = read_metrics(alone)
    assert len(two) == len(one)
    for found, expected in zip(two[:8], one[:8], strict=True):
        assert found.pop("event") == expected.pop("event")
        assert found == pytest.approx(expected, rel=1e-4)


def run_alone_in_one_process(run_dir):
    """Returns the metrics of the same run on as many devices of one process."""
    ended = subprocess.run(
        [
            *(sys.executable, "experiments/cifar10_resnet20.py", *OPTIONS),
            *("--run-dir", str(run_dir)),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": os.environ["XLA_FLAGS"]
            + " --xla_force_host_platform_device_count=4",
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return read_metrics(run_dir)
