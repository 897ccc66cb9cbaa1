"""Two runs cannot share a directory, and a killed one blocks nothing."""

import concurrent.futures
import fcntl
import json
import os
import signal
import subprocess
import sys
import warnings

import jax.numpy as jnp
import pytest

from cnn_jax.checkpoint import Checkpointer, CheckpointError, DirectoryInUseError
from cnn_jax.checkpoint.files import as_path
from cnn_jax.checkpoint.lock import DirectoryLock

# Without JAX, to be quick.
HOLD = """
import sys, types
sys.modules["jax"] = types.ModuleType("jax")
sys.path.insert(0, sys.argv[2])
sys.modules["cnn_jax"] = package = types.ModuleType("cnn_jax")
package.__path__ = [sys.argv[2] + "/cnn_jax"]
sys.modules["cnn_jax.checkpoint"] = package = types.ModuleType("cnn_jax.checkpoint")
package.__path__ = [sys.argv[2] + "/cnn_jax/checkpoint"]
from etils import epath
from cnn_jax.checkpoint.lock import DirectoryLock
lock = DirectoryLock(epath.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path, request):
    """Another process that holds the lock of `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path, request.config.rootpath],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_another_process_is_named_and_its_death_frees_the_lock(tmp_path, holder):
    with pytest.raises(DirectoryInUseError) as error:
        Checkpointer(tmp_path)
    text = str(error.value)
    assert text.startswith(
        f"{tmp_path}: another run writes here (process {holder.pid} "
    )
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, {"x": jnp.zeros(2)}, {})
        assert checkpointer.steps == (1,)


def test_one_process_cannot_open_it_twice(tmp_path):
    with (
        Checkpointer(tmp_path),
        pytest.raises(DirectoryInUseError, match=f"{os.getpid()}"),
    ):
        Checkpointer(tmp_path)
    Checkpointer(tmp_path).close()


def test_nothing_is_removed_before_the_lock_is_held(tmp_path):
    with Checkpointer(tmp_path):
        (tmp_path / "4.unfinished").mkdir()
        with pytest.raises(DirectoryInUseError):
            Checkpointer(tmp_path)
        assert (tmp_path / "4.unfinished").exists()
    Checkpointer(tmp_path).close()
    assert not (tmp_path / "4.unfinished").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"?",
        b"",
        b"{}",
        b"[]",
        b"7",
        b"null",
        b"\xff\xfe\x00",
        b'{"pid": 1, "host": "here"}',
        b"[" * 4000,
        bytes(100_000),
    ],
)
def test_a_lock_that_says_nothing_still_locks(tmp_path, content):
    lock = DirectoryLock(as_path(tmp_path))
    (tmp_path / "lock").write_bytes(content)
    with pytest.raises(DirectoryInUseError, match="does not say"):
        DirectoryLock(as_path(tmp_path))
    lock.release()
    lock.release()
    DirectoryLock(as_path(tmp_path)).release()


def test_what_a_lock_says_cannot_command_the_terminal(tmp_path):
    lock = DirectoryLock(tmp_path)
    holder = {"pid": [1], "host": "\x1b[2Jhere\n", "since": "x" * 3000}
    (tmp_path / "lock").write_text(json.dumps(holder))
    with pytest.raises(DirectoryInUseError) as error:
        DirectoryLock(tmp_path)
    assert "process [1] on \\x1b[2Jhere\\n since xxx" in str(error.value)
    assert len(str(error.value)) < 500
    lock.release()


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_a_link_is_no_lock(tmp_path, make):
    other = tmp_path / "other"
    other.write_text("precious")
    (tmp_path / "run").mkdir()
    make(other, tmp_path / "run" / "lock")
    with pytest.raises(OSError, match=r"a link, or no regular file: .*run/lock"):
        DirectoryLock(tmp_path / "run")
    assert other.read_text() == "precious"


def test_nor_is_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(OSError, match=r"a link, or no regular file: .*lock"):
        DirectoryLock(tmp_path)


def test_it_is_shared_within_a_block_by_one_thread(tmp_path):
    def is_refused():
        with pytest.raises(DirectoryInUseError):
            DirectoryLock(tmp_path)
        return True

    with DirectoryLock(tmp_path) as lock:
        inner = DirectoryLock(tmp_path)
        inner.release()
        assert inner.is_in_place
        with concurrent.futures.ThreadPoolExecutor() as pool:
            assert pool.submit(is_refused).result()
        (tmp_path / "other").mkdir()
        DirectoryLock(tmp_path / "other").release()
    assert not is_held(tmp_path)
    lock = DirectoryLock(tmp_path)
    assert is_refused()
    with lock.sharing():
        DirectoryLock(tmp_path).release()
    assert is_refused()
    lock.release()


def is_held(directory):
    with open(directory / "lock") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_forked_child_does_not_hold_on_to_it(tmp_path):
    lock = DirectoryLock(as_path(tmp_path))
    born, here = os.pipe()
    ended, end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX is multithreaded; the child only waits
        child = os.fork()
    if child == 0:
        os.close(end)
        os.write(here, b".")
        os.read(ended, 1)
        os._exit(0)
    try:
        os.read(born, 1)
        with pytest.raises(DirectoryInUseError):  # the parent still has it
            DirectoryLock(as_path(tmp_path))
        lock.release()
        DirectoryLock(as_path(tmp_path)).release()
    finally:
        for descriptor in (born, here, ended, end):
            os.close(descriptor)
        os.waitpid(child, 0)


def test_reading_beside_a_run_changes_nothing(tmp_path):
    tree = {"x": jnp.arange(3.0)}
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, tree, {"a": 1})
        checkpointer.wait()
        (tmp_path / "2.unfinished").mkdir()
        with Checkpointer(tmp_path, read_only=True) as beside:
            assert beside.restore(tree).metadata == {"a": 1}
            with pytest.raises(CheckpointError, match="for reading only"):
                beside.save(2, tree, {})
        assert (tmp_path / "2.unfinished").exists()
    with Checkpointer(tmp_path / "nowhere", read_only=True) as checkpointer:
        assert checkpointer.steps == ()
        with pytest.raises(FileNotFoundError, match="found none"):
            checkpointer.restore(tree)
    assert not (tmp_path / "nowhere").exists()
