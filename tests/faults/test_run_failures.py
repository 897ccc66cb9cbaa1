"""A run whose disk fails ends with one sentence that names the path, and goes on later.

See `test_failures` for the same of a single save.
"""

import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from helpers.data_workers import find_data_workers
from helpers.quick import nightly_except
from helpers.run_files import read_end

from cnn_jax.checkpoint import Checkpointer
from faults.experiments import ARGUMENTS, NUM_STEPS, assert_goes_on
from faults.forks import ROOT
from faults.sweep import start_server

pytestmark = pytest.mark.slow

WHAT_HAPPENS = {
    "files may not grow": (
        {"name": "limit_files", "save": 2, "options": {"size": 1 << 16}},
        "SaveError: {run_dir}/checkpoints/8: step 8 could not be saved",
        "File too large",
    ),
    "no space for the metrics": (
        {"name": "fill_disk_for", "step": 6, "options": {"file": "metrics.jsonl"}},
        "OSError: [Errno 28] No space left on device: '{run_dir}/metrics.jsonl'",
        "",
    ),
    "no space for the events": (
        {"name": "fill_disk_for", "step": 6, "options": {"file": "events.out"}},
        "OSError: [Errno 28] No space left on device: '{run_dir}/events.out.tfevents.",
        "",
    ),
    "the directory becomes read-only": (
        {"name": "write_protect", "save": 2},
        "SaveError: {run_dir}/checkpoints/8: step 8 could not be saved",
        "Permission denied",
    ),
    "a save fails in the background": (
        {"point": "arrays_committed", "save": 2},
        "SaveError: {run_dir}/checkpoints/8: step 8 could not be saved",
        "a cosmic ray",
    ),
}


def assert_one_sentence(experiment, status, begins, contains=""):
    """Asserts that a run ended with status 1 and a clear last line, not a traceback.

    Orbax's threads print theirs before that.
    """
    assert status == 1, experiment.output
    begins = begins.format(run_dir=experiment.run_dir)
    assert experiment.last_line.startswith(begins), experiment.output
    assert contains in experiment.last_line
    assert "cnn_jax/experiment.py" not in experiment.output


@pytest.mark.parametrize("what", WHAT_HAPPENS)
def test_a_run_that_cannot_write(experiment, undisturbed, what):
    fault, begins, contains = WHAT_HAPPENS[what]
    status = experiment.start(fault=fault)
    assert_one_sentence(experiment, status, begins, contains)
    assert experiment.steps == (4,)
    assert not (experiment.run_dir / "result.json").exists()
    # Space returns, or whoever took the directory away gives it back.
    (experiment.run_dir / "checkpoints").chmod(0o755)
    assert_goes_on(experiment, undisturbed, 4)


def no_space(name):
    """Returns the fault of a disk that is full for a whole file."""
    return {"name": "fill_disk_before", "options": {"name": name}}


def test_no_space_for_the_configuration(experiment, undisturbed):
    begins = "OSError: [Errno 28] No space left on device: '{run_dir}/config.json'"
    status = experiment.start(fault=no_space("config.json"))
    assert_one_sentence(experiment, status, begins)
    assert experiment.steps == ()
    # There is no run yet that could be resumed.
    assert experiment.start() == 0, experiment.output
    assert read_end(experiment.run_dir) == undisturbed


def test_no_space_for_the_result(experiment, undisturbed):
    begins = "OSError: [Errno 28] No space left on device: '{run_dir}/result.json'"
    status = experiment.start(fault=no_space("result.json"))
    assert_one_sentence(experiment, status, begins)
    assert_goes_on(experiment, undisturbed, NUM_STEPS)


@pytest.mark.parametrize("step", [2, 15, NUM_STEPS])
def test_the_directory_deleted_under_the_run(experiment, step):
    status = experiment.start(fault={"name": "delete", "step": step})
    begins = "SaveError: {run_dir}/checkpoints/"
    assert_one_sentence(experiment, status, begins, "was deleted or replaced under")
    # What was being written then may have made the directory anew.
    assert experiment.steps == ()
    assert not (experiment.run_dir / "result.json").exists()


def test_a_run_directory_that_cannot_be_made(experiment):
    experiment.run_dir.write_text("me")
    status = experiment.start()
    assert_one_sentence(
        experiment, status, "FileExistsError: ", str(experiment.run_dir)
    )


def small_disk(directory):
    """Returns the command under which a program has 16 MiB at a directory."""
    own = [] if os.geteuid() == 0 else ["--map-root-user"]
    mount = 'mount -t tmpfs -o size=16m none "$0" && exec "$@"'
    return ["unshare", "--mount", *own, "sh", "-c", mount, str(directory)]


def test_a_disk_that_is_full(tmp_path, undisturbed):
    disk, programs = tmp_path / "disk", tmp_path / "programs"
    disk.mkdir()
    programs.mkdir()
    wrapper = small_disk(disk)
    tried = subprocess.run([*wrapper, "true"], capture_output=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no file system may be mounted here: {tried.stderr}")
    server = start_server(programs, wrapper=wrapper)
    try:
        # The mount is the server's alone; this is how others see it.
        seen = pathlib.Path(f"/proc/{server.process.pid}/root{disk}")
        ballast = {"ballast": str(disk / "ballast")}
        fault = {"name": "fill_disk", "save": 2, "options": ballast}
        log = str(tmp_path / "log")
        plan = {
            "arguments": [*ARGUMENTS, "--run-dir", str(disk / "run")],
            "output": log,
        }
        assert server(**plan, fault=fault) == 1
        last_line = pathlib.Path(log).read_text().splitlines()[-1]
        # What is written first where there is no page left, a line or a checkpoint.
        assert "No space left on device" in last_line
        assert str(disk / "run") in last_line
        with Checkpointer(seen / "run" / "checkpoints", read_only=True) as reader:
            assert reader.steps == (4,)
        (seen / "ballast").unlink()
        plan["arguments"].append("--resume")
        assert server(**plan) == 0, pathlib.Path(log).read_text()
        assert read_end(seen / "run") == undisturbed
    finally:
        server.close()


@pytest.mark.parametrize("seed", nightly_except([0], [0, 1]))
def test_a_killed_data_worker(tmp_path, seed):
    run_dir, log = tmp_path / "run", tmp_path / "log"
    with open(log, "w") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "experiments/cifar10_resnet20.py"),
                *("--model", "lenet5", "--dataset", "synthetic:40x36x1"),
                *("--data-path", "stream", "--image-size", "32", "--batch-size", "64"),
                *("--augmentation", "inception", "--crop-padding", "0"),
                *("--num-workers", "2", "--epochs", "1000", "--run-dir", str(run_dir)),
                *("--checkpoint-every-steps", "6", "--log-every-steps", "1"),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            stdout=output,
            stderr=output,
        )
    try:
        metrics = run_dir / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not (metrics.exists() and metrics.stat().st_size > 2000):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        generator = random.Random(seed)
        time.sleep(generator.uniform(0, 1))
        os.kill(generator.choice(find_data_workers(process.pid)), signal.SIGKILL)
        assert process.wait(timeout=60) == 1
    finally:
        process.kill()
        process.wait()
    # After it Python's resource tracker lists what it cleans up for killed processes.
    assert re.search(
        r"^ChildProcessError: A process that reads .* exit code -9",
        log.read_text(),
        re.M,
    )
    assert "Traceback" not in log.read_text()
    with Checkpointer(run_dir / "checkpoints") as checkpointer:
        assert checkpointer.latest_step % 6 == 0
