"""The host's limits and its clock."""

import os
import resource
import shutil
import tempfile
import types

import pytest

from cnn_jax.doctor import host


def test_this_host():
    for check in (host.check_cores, host.check_memory, host.check_open_files):
        found = check()
        assert found.verdict in ("ok", "warning")
        assert any(map(str.isdigit, found.sentence))


def test_one_core_is_not_many(monkeypatch):
    monkeypatch.setattr(host.machine, "num_cores", lambda: 1)
    assert ", 1 core" in host.check_cores().sentence
    assert "1 cores" not in host.check_cores().sentence


def test_little_memory_is_a_warning(monkeypatch):
    monkeypatch.setattr(host.memory, "available_bytes", lambda: 10**8)
    found = host.check_memory()
    assert (found.verdict, found.sentence) == ("warning", "100 MB can be allocated.")


def test_little_shared_memory_is_a_warning(monkeypatch):
    usage = types.SimpleNamespace(total=67_108_864, free=64_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    found = host.check_shared_memory()
    assert (found.verdict, "--shm-size" in found.remedy) == ("warning", True)
    assert "64 MB free of 67.1 MB" in found.sentence


def test_no_shared_memory_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(host, "SHARED_MEMORY", tmp_path / "none")
    assert host.check_shared_memory().verdict == "warning"


def test_few_open_files_is_a_warning():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, before[1]))
    try:
        found = host.check_open_files()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (found.verdict, "ulimit -n" in found.remedy) == ("warning", True)
    assert "1,000" in found.sentence


def test_the_clock_agrees_and_nothing_stays(tmp_path):
    assert host.check_clock(tmp_path / "new" / "deep").verdict == "ok"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seconds", [-3600.0, 3600.0])
def test_a_file_system_with_another_clock_is_a_warning(tmp_path, monkeypatch, seconds):
    real = os.stat

    def shifted(path, **options):
        found = real(path, **options)
        return types.SimpleNamespace(st_mtime=found.st_mtime + seconds)

    with monkeypatch.context() as patch:
        patch.setattr(host, "os", types.SimpleNamespace(**vars(os)))
        patch.setattr(host.os, "stat", shifted)
        found = host.check_clock(tmp_path)
    assert found.verdict == "warning"
    assert "3600 s apart" in found.sentence


def test_where_nothing_can_be_written_the_clock_is_not_compared():
    found = host.check_clock("/proc")
    assert (found.verdict, "not compared" in found.sentence) == ("warning", True)


def test_no_directory_for_temporary_files_is_a_warning(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/none"])
    found = host.check_clock(None)
    assert (found.verdict, "not compared" in found.sentence) == ("warning", True)


def test_a_directory_that_cannot_be_seen_is_a_warning(tmp_path):
    found = host.check_clock(tmp_path / ("n" * 300))
    assert (found.verdict, "not compared" in found.sentence) == ("warning", True)
