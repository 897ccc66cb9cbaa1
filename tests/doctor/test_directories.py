"""Directories of runs: what fails there, and that nothing stays."""

import errno
import os
import subprocess
import sys
import threading

import pytest

from cnn_jax.checkpoint.lock import DirectoryLock
from cnn_jax.doctor import directories
from cnn_jax.doctor.directories import check_directory


def look(path, seconds=60.0):
    return check_directory("checkpoint directory", str(path), seconds)


def test_a_directory_that_serves(tmp_path):
    (tmp_path / "mine").write_text("stays")
    found = look(tmp_path)
    assert [each.name for each in found] == [
        "checkpoint directory",
        "checkpoint directory, space",
        "checkpoint directory, lock",
    ]
    assert {found[0].verdict, found[2].verdict} == {"ok"}
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_directory_that_a_run_will_make(tmp_path):
    found = look(tmp_path / "new" / "deep")
    assert found[0].verdict == "ok"
    assert "does not exist yet" in found[0].sentence
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_directory_is_a_fault():
    found = look("/proc/sys")[0]  # read-only for everybody
    assert (found.verdict, "cannot be written" in found.sentence) == ("fault", True)


def test_a_directory_without_permission_is_a_fault(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o555)
    assert look(tmp_path)[0].verdict == "fault"


def test_a_file_in_its_place_is_a_fault(tmp_path):
    (tmp_path / "file").write_text("")
    (found,) = look(tmp_path / "file")
    assert (found.verdict, found.remedy) == ("fault", "Name a directory.")


def test_a_full_disk_is_a_fault_and_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    found = look(tmp_path)[0]
    assert (found.verdict, "No space left" in found.sentence) == ("fault", True)
    assert list(tmp_path.iterdir()) == []


def test_little_space_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(directories, "LEAST_FREE", 10**30)
    assert look(tmp_path)[1].verdict == "warning"


HOLDER = """
import sys
from cnn_jax.checkpoint.lock import DirectoryLock
lock = DirectoryLock(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_run_that_holds_the_lock_is_named_and_keeps_it(tmp_path):
    lock = DirectoryLock(tmp_path)
    before = (tmp_path / "lock").read_text()
    found = look(tmp_path)[2]
    assert found.verdict == "warning"
    assert f"process {os.getpid()}" in found.sentence
    assert (tmp_path / "lock").read_text() == before
    assert lock.is_in_place
    lock.release()
    assert look(tmp_path)[2].verdict == "ok"
    assert (tmp_path / "lock").read_text() == before


@pytest.mark.slow
def test_a_lock_of_another_process(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        process.stdout.readline()
        found = look(tmp_path)[2]
    finally:
        process.communicate()
    assert f"process {process.pid}" in found.sentence


def test_a_file_system_that_hangs_is_a_fault_in_time(tmp_path, monkeypatch):
    is_over = threading.Event()
    monkeypatch.setattr(
        directories, "_check_local", lambda name, path: is_over.wait(300) and []
    )
    (found,) = look(tmp_path, seconds=0.1)
    is_over.set()
    assert (found.verdict, "no answer within" in found.sentence) == ("fault", True)


def test_a_bucket_that_cannot_be_reached_is_one_sentence(monkeypatch):
    def unreachable(self, content):
        raise ConnectionError("no route")

    path = type(directories_path("gs://bucket/run"))
    monkeypatch.setattr(path, "write_bytes", unreachable)
    (found,) = look("gs://bucket/run")
    assert (found.verdict, "no route" in found.sentence) == ("fault", True)


@pytest.fixture
def bucket(monkeypatch):
    """Returns names -> contents of objects, and the set of what is refused."""
    objects, refused = {}, set()

    def act(verb, function):
        def run(self, *arguments, **options):
            if verb in refused:
                raise PermissionError(f"{verb} is refused")
            return function(self.name, *arguments)

        return run

    path = type(directories_path("gs://bucket/run"))
    for verb, function in (
        ("write_bytes", objects.__setitem__),
        ("read_bytes", objects.__getitem__),
        ("unlink", objects.pop),
    ):
        monkeypatch.setattr(path, verb, act(verb, function))
    return objects, refused


def test_a_bucket_that_refuses_reading_keeps_no_object(bucket):
    objects, refused = bucket
    assert look("gs://bucket/run")[0].verdict == "ok"
    refused.add("read_bytes")
    (found,) = look("gs://bucket/run")
    assert found.verdict == "fault"
    assert "cannot be read: PermissionError" in found.sentence
    assert objects == {}
    refused.add("write_bytes")
    assert "cannot be written: PermissionError" in look("gs://bucket/run")[0].sentence


def test_objects_that_cannot_be_removed_are_named_and_do_not_collide(bucket):
    objects, refused = bucket
    refused.add("unlink")
    for number in (1, 2):
        (found,) = look("gs://bucket/run")
        assert found.verdict == "fault"
        assert "cannot be removed" in found.sentence
        assert len(objects) == number
    assert list(objects)[-1] in found.sentence


def test_a_directory_that_cannot_be_seen_is_one_sentence(tmp_path, monkeypatch):
    (found,) = look(tmp_path / ("n" * 300))
    assert (found.verdict, "too long" in found.sentence) == ("fault", True)
    real = os.stat

    def closed(path, *arguments, **options):
        if os.fspath(path) == str(tmp_path / "closed" / "run"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", closed)
    (found,) = look(tmp_path / "closed" / "run")
    assert (found.verdict, "Permission denied" in found.sentence) == ("fault", True)


def test_an_unknown_kind_of_path_is_a_fault():
    (found,) = look("ftp://host/run")
    assert (found.verdict, "gs://" in found.sentence) == ("fault", True)


def directories_path(text):
    from cnn_jax.checkpoint.files import as_path

    return as_path(text)
