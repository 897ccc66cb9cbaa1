"""A disk full, forbidden or gone: an error with the path, and the old steps whole."""

import contextlib
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import threading

import pytest

from cnn_jax import trees
from cnn_jax.checkpoint import (
    Checkpointer,
    CheckpointError,
    SaveError,
    manifest,
    points,
)
from faults.saver import tree_at

ROOT = pathlib.Path(__file__).parents[2]

# Futures whose result is never read log their error when they are collected.
ORBAX_LEAVES_FUTURES = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def directory(tmp_path):
    """A directory with step 1."""
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        checkpointer.save(1, tree_at(1), {"saved": 1})
    return tmp_path / "checkpoints"


def assert_step_1_is_whole(directory):
    with Checkpointer(directory) as checkpointer:
        assert checkpointer.steps == (1,)
        found = checkpointer.restore(tree_at(0))
        assert trees.digest(found.tree) == trees.digest(tree_at(1))
    assert {path.name for path in directory.iterdir()} == {"1", "lock"}


def save_2(checkpointer, leave):
    checkpointer.save(2, tree_at(2, 100_000), {})
    leave(checkpointer)


def assert_save_fails(checkpointer, match):
    """Fails at once or at `close`, which returns and leaves no save behind."""
    path = checkpointer.directory / "2"
    with pytest.raises(SaveError, match=f"{path}: .*{match}"):
        save_2(checkpointer, Checkpointer.close)
    checkpointer.close()
    names = {thread.name for thread in threading.enumerate()}
    assert not names & {"save-2", "async_save"}


@pytest.fixture
def no_space():
    """Files may have 64 KiB, no more: this process's disk is full at once."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, old[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@ORBAX_LEAVES_FUTURES
def test_a_full_disk(directory, no_space):
    assert_save_fails(Checkpointer(directory), match="File too large")
    assert_step_1_is_whole(directory)


PROGRAM = """
import resource
import sys
import numpy as np
from cnn_jax.checkpoint import Checkpointer

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
with Checkpointer(sys.argv[1]) as checkpointer:
    checkpointer.save(2, {"x": np.random.default_rng(0).random(100_000)}, {})
"""


def test_a_full_disk_ends_a_program_with_a_message(directory):
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, directory],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"cnn_jax.checkpoint.errors.SaveError: {directory}/2: ")
    assert "File too large" in last
    assert_step_1_is_whole(directory)


def test_a_disk_that_fills_up_behind_the_arrays(directory, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    checkpointer = Checkpointer(directory)
    with monkeypatch.context() as patched:
        patched.setattr(manifest.files, "write_atomically", fail)
        assert_save_fails(checkpointer, match="No space left on device")
    assert_step_1_is_whole(directory)


@contextlib.contextmanager
def unprivileged():
    """Permissions bind: root becomes nobody."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(65534)
    except OSError as error:
        pytest.skip(f"root that cannot become nobody: {error}")
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_to_nobody(directory):
    """The same, where nobody may pass and owns it."""
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        copy = pathlib.Path(parent, "checkpoints")
        shutil.copytree(directory, copy)
        if os.geteuid() == 0:
            for path in [copy, *copy.rglob("*")]:
                os.chown(path, 65534, 65534)
        yield copy
        copy.chmod(0o755)


def test_a_directory_that_becomes_read_only(open_to_nobody):
    with unprivileged():
        checkpointer = Checkpointer(open_to_nobody)
        open_to_nobody.chmod(0o555)
        assert_save_fails(checkpointer, match="Permission denied")
        open_to_nobody.chmod(0o755)
        assert_step_1_is_whole(open_to_nobody)


def test_a_directory_that_is_read_only(open_to_nobody):
    with unprivileged():
        (open_to_nobody / "lock").unlink()
        open_to_nobody.chmod(0o555)
        with pytest.raises(PermissionError, match=f"{open_to_nobody}/lock"):
            Checkpointer(open_to_nobody)
        with Checkpointer(open_to_nobody, read_only=True) as checkpointer:
            assert checkpointer.restore(tree_at(0)).step == 1


def test_a_file_that_may_not_be_read(open_to_nobody):
    with unprivileged():
        (open_to_nobody / "1" / "_METADATA").chmod(0)
        with (
            Checkpointer(open_to_nobody) as checkpointer,
            pytest.raises(CheckpointError, match=r"_METADATA cannot be read .*denied"),
        ):
            checkpointer.restore(tree_at(0))


def test_an_old_step_that_cannot_be_removed(open_to_nobody):
    with unprivileged():
        (open_to_nobody / "1" / "d").chmod(0o555)
        checkpointer = Checkpointer(open_to_nobody, keep=1)
        checkpointer.save(2, tree_at(2), {})
        with pytest.raises(CheckpointError, match=r"/2: .* saved, but older .*denied"):
            checkpointer.wait()
        assert checkpointer.latest_step == 2
        checkpointer.close()
        (open_to_nobody / "1.removed" / "d").chmod(0o755)
        with Checkpointer(open_to_nobody) as checkpointer:
            assert checkpointer.steps == (2,)


def test_a_file_where_the_directory_should_be(tmp_path):
    (tmp_path / "checkpoints").write_text("me")
    with pytest.raises(OSError, match=f"{tmp_path}/checkpoints"):
        Checkpointer(tmp_path / "checkpoints")


@pytest.mark.parametrize("replaced", [False, True])
def test_a_directory_deleted_under_the_run(directory, replaced):
    checkpointer = Checkpointer(directory)
    shutil.rmtree(directory)
    if replaced:
        Checkpointer(directory).close()
    with pytest.raises(CheckpointError, match=f"{directory} was deleted or replaced"):
        _ = checkpointer.latest_step
    assert_save_fails(checkpointer, match="deleted or replaced under the run")
    assert not (directory / "2").exists()


@pytest.mark.parametrize(
    "point",
    ["arrays_written", "arrays_committed", "manifest_written", "step_committed"],
)
def test_a_directory_deleted_during_a_save(directory, monkeypatch, point):
    checkpointer = Checkpointer(directory)

    def delete(reached):
        if reached == point:
            shutil.rmtree(directory)

    monkeypatch.setattr(points, "on_reach", delete)
    assert_save_fails(checkpointer, match="was deleted or replaced under the run")
    assert not directory.exists()


@pytest.mark.parametrize("point", points.POINTS[:4])
def test_whatever_fails_can_be_tried_again(directory, monkeypatch, point):
    def fail(reached):
        if reached == point:
            raise RuntimeError("a cosmic ray")

    with Checkpointer(directory) as checkpointer:
        with monkeypatch.context() as patched:
            patched.setattr(points, "on_reach", fail)
            with pytest.raises(SaveError, match=r"step 2 .*cosmic"):
                save_2(checkpointer, Checkpointer.wait)
        assert checkpointer.steps == (1,)
        assert {path.name for path in directory.iterdir()} == {"1", "lock"}
        checkpointer.save(2, tree_at(2), {})
        assert checkpointer.latest_step == 2


def test_metadata_that_json_cannot_hold(directory):
    with Checkpointer(directory) as checkpointer:
        with pytest.raises(TypeError, match="not JSON serializable"):
            checkpointer.save(2, tree_at(2), {"a": object()})
        assert checkpointer.steps == (1,)
