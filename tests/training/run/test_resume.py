"""A run killed with SIGKILL and resumed ends bitwise equal to one left alone."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
from helpers.quick import nightly_except
from helpers.run_files import read_end

ROOT = pathlib.Path(__file__).parents[3]
EVERY = 6  # steps between checkpoints; an epoch has 22, or 19
EPOCHS = 8  # long enough to be caught on a busy machine
COMMON = [
    *("--model", "lenet5", "--epochs", str(EPOCHS), "--batch-size", "64"),
    *("--learning-rate", "0.1", "--validation-fraction", "0.02"),
    *("--checkpoint-every-steps", str(EVERY), "--log-every-steps", "1"),
]
RESIDENT = ["--dataset", "digits", "--no-flip"]
STREAMED = [
    *("--dataset", "synthetic:40x36x1", "--train-split", "train"),
    *("--data-path", "stream", "--image-size", "32", "--augmentation", "inception"),
    *("--mixup-alpha", "0.2", "--crop-padding", "0"),
]
PATHS = {
    "resident": RESIDENT,
    "threads": STREAMED,
    "1 worker": [*STREAMED, "--num-workers", "1"],
    "2 workers": [*STREAMED, "--num-workers", "2"],
}


def start(run_dir, *options, flags="", prefix=()):
    return subprocess.Popen(
        [
            *prefix,
            *(sys.executable, "experiments/cifar10_resnet20.py", *COMMON),
            *("--run-dir", str(run_dir), *options),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": os.environ["XLA_FLAGS"]
            + f" --xla_force_host_platform_device_count=2 {flags}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output, errors


def logged_steps(run_dir):
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record["step"] for record in records if record["event"] == "step"]


def saved_steps(run_dir):
    names = [path.name for path in (run_dir / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())


@pytest.mark.nightly  # `tests/faults/test_sweep.py` kills runs at less expense
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seed", [0])
def test_killed_between_checkpoints_and_resumed(tmp_path, path, seed):
    options = PATHS[path]
    target = random.Random(seed).choice(
        [s for s in range(8, 40) if s % EVERY in (2, 3)]
    )
    alone, broken = tmp_path / "alone", tmp_path / "broken"
    process = start(broken, *options)
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if (steps := logged_steps(broken)) and steps[-1] >= target:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.002)
    # Its workers hold the other ends of its pipes, and must not outlive it.
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"
    # It had gone on since its newest checkpoint, and was not over.
    assert 0 < saved_steps(broken)[-1] < logged_steps(broken)[-1] < 19 * EPOCHS

    undisturbed = start(alone, *options)
    resumed = start(broken, "--resume", *options)
    _, errors = finish(resumed)
    finish(undisturbed)
    assert "Resuming at step" in errors
    assert read_end(broken) == read_end(alone)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A run of two epochs that has ended."""
    run_dir = tmp_path_factory.mktemp("short") / "run"
    finish(start(run_dir, *RESIDENT, "--epochs", "2"))
    return run_dir


ON_ONE_CORE = (
    *(sys.executable, "-c"),
    "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    "os.execv(sys.argv[1], sys.argv[1:])",
)

OTHER = {
    "threads: saved": {"prefix": ON_ONE_CORE},
    "xla_flags: saved": {"flags": "--xla_cpu_enable_fast_math=true"},
}


@pytest.mark.slow
@pytest.mark.parametrize("what", nightly_except(["threads: saved"], OTHER))
def test_another_environment_is_refused(short, what):
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("it takes two cores to have one less")
    options = [*RESIDENT, "--epochs", "2", "--resume"]
    process = start(short, *options, **OTHER[what])
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "ResumeRefusedError: The run to resume was made with another env" in errors
    assert what in errors
    options += ["--allow-changed", "environment"]
    _, errors = finish(start(short, *options, **OTHER[what]))
    assert "The run goes on in another environment" in errors
    assert "Resuming at step" in errors


@pytest.mark.nightly
def test_flags_that_change_no_number_and_devices_are_no_refusal(short, tmp_path):
    options = [*RESIDENT, "--epochs", "2", "--resume"]
    flags = f"--xla_dump_to={tmp_path} --xla_force_host_platform_device_count=1"
    _, errors = finish(start(short, *options, flags=flags))
    assert "devices: before 2, now 1" in errors
    assert "xla_flags" not in errors
