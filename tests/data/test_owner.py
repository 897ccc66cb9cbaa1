"""Removal of what dead processes left, and of nothing else."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from helpers.quick import nightly_except

from cnn_jax.data import owner

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def dead():
    """The owner's part of a name, of a process that has ended."""
    code = "from cnn_jax.data import owner; print(owner.this_process())"
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A directory in place of `/dev/shm`."""
    monkeypatch.setattr(owner, "_SHARED", tmp_path)
    return tmp_path


def test_shared_memory_of_the_dead_is_removed_and_no_other(shared, dead):
    pid, start, namespace = dead.split("-")
    live, _, _ = owner.this_process().split("-")
    gone = [
        f"cnn_jax-{dead}-1a",
        f"sem.cnn_jax-{dead}-x_y",
        f"cnn_jax-{live}-1-{namespace}-1",
    ]
    kept = [
        f"cnn_jax-{owner.this_process()}-1a",
        f"sem.cnn_jax-{owner.this_process()}-a",
        f"cnn_jax-{pid}-{start}-7-1a",  # of another container
        f"psm_{dead}",
        "sem.mp-abcdefgh",
        "cnn_jax-1a",
    ]
    for name in gone + kept:
        (shared / name).touch()
    owner.remove_shared_memory_of_the_dead()
    assert {path.name for path in shared.iterdir()} == {*kept}


def test_a_system_without_shared_memory_is_fine(monkeypatch):
    monkeypatch.setattr(owner, "_SHARED", pathlib.Path("/nowhere"))
    owner.remove_shared_memory_of_the_dead()


def test_directories_of_the_dead_are_removed_and_no_other(tmp_path, dead):
    own = owner.directory_prefix(".incomplete-")
    of_dead = own.replace(owner.this_process(), dead)
    host = own.removeprefix(f".incomplete-{owner.this_process()}-")
    kept = [
        f"{own}abc",
        of_dead.replace(host, "elsewhere-") + "abc",
        ".incomplete-abc",
        "3.0.1",
    ]
    for name in [f"{of_dead}abc", *kept]:
        (tmp_path / name / "inside").mkdir(parents=True)
    (tmp_path / f"{of_dead}link").symlink_to(tmp_path / "3.0.1")
    owner.remove_directories_of_the_dead(tmp_path, ".incomplete-")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, f"{of_dead}link"}
    assert (tmp_path / "3.0.1" / "inside").exists()


STREAM = """
import os, signal, sys

from cnn_jax import data
from cnn_jax.data import owner
from cnn_jax.data.sources import Synthetic

if __name__ == "__main__":
    if sys.argv[1] == "deaf":
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: None)
    stream = data.TrainStream(
        Synthetic("synthetic:32x32x3", "train"),
        batch_size=32, transform=data.train_transform("none", 32), num_workers=2,
    )
    batches = stream.batches()
    print(owner.this_process(), flush=True)
    next(batches)
    print("begun", flush=True)
    if sys.argv[1] == "wait":
        sys.stdin.read()
    for _ in range(5):
        next(batches)
    batches.close()
    if sys.argv[1] == "deaf":
        sys.stdin.read()  # at its exit Python gives handlers up
"""


@pytest.fixture
def start(tmp_path):
    """Starts a program that streams, in a group of its own."""
    program, started = tmp_path / "stream.py", []
    program.write_text(STREAM)

    def run(what):
        process = subprocess.Popen(
            [sys.executable, program, what],
            env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.__exit__(None, None, None)


def left_by(process):
    return [name for name in os.listdir("/dev/shm") if f"cnn_jax-{process}-" in name]


@pytest.mark.slow
def test_a_killed_group_leaves_nothing_behind_the_next_start(start):
    killed, live = start("wait"), start("wait")
    names = [process.stdout.readline().strip() for process in (killed, live)]
    for process in (killed, live):
        assert process.stdout.readline() == "begun\n"
    before = left_by(names[0])
    assert any(name.startswith("sem.") for name in before)
    assert any(name.startswith("cnn_jax-") for name in before)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    time.sleep(0.5)
    assert left_by(names[0])
    start("end").communicate(timeout=60)
    assert left_by(names[0]) == []
    assert left_by(names[1])
    _, error = live.communicate("", timeout=60)
    assert live.returncode == 0, error
    assert left_by(names[1]) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("wait", nightly_except([1], [0.05, 0.5, 1, 2, 3]))
def test_a_signal_to_the_group_leaves_workers_to_their_parent(start, number, wait):
    process = start("deaf")
    process.stdout.readline()
    time.sleep(wait)  # while the workers start, or work
    os.killpg(process.pid, number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in error
