"""All checks in a row: one that fails or hangs does not end the others."""

import threading

import pytest

from cnn_jax.doctor import devices, directories, examination, host
from cnn_jax.doctor.child import Answer
from cnn_jax.doctor.examination import Examination
from cnn_jax.doctor.finding import ok

NOTHING = Answer({"devices": {"error": "none"}}, None, "", "")


def fail(*arguments, **options):
    raise OSError("no disk")


@pytest.fixture
def answered(monkeypatch):
    """Has the other process answer that there is no device."""
    monkeypatch.setattr(examination, "ask", lambda task, seconds: NOTHING)


def test_a_process_that_cannot_be_started_is_a_fault(monkeypatch):
    monkeypatch.setattr(examination, "ask", fail)
    (found,) = examination._examine_devices(Examination())
    assert (found.name, found.verdict) == ("devices", "fault")
    assert "no disk" in found.sentence


@pytest.mark.parametrize("check", ["check_devices", "check_settings", "check_cache"])
def test_a_check_of_devices_that_fails_does_not_end_the_others(
    answered, monkeypatch, check
):
    monkeypatch.setattr(devices, check, fail)
    found = list(examination._examine_devices(Examination()))
    faults = [each.name for each in found if "no disk" in each.sentence]
    named = check.removeprefix("check_").replace("cache", "compilation cache")
    assert faults == [named]
    assert any("known fault" in each.name for each in found)


def test_a_roll_that_fails_does_not_end_the_others(answered, monkeypatch):
    monkeypatch.setattr(examination.processes, "check_roll", fail)
    group = Examination(coordinator_address="host:1234", num_processes=2, process_id=1)
    found = list(examination._examine_devices(group))
    assert [each.name for each in found[:3]] == ["processes", "group", "devices"]


def test_what_fails_or_hangs_is_named():
    (found,) = examination._guarded("clock", fail, 60.0)
    assert (found.name, found.remedy) == ("clock", "Report it, with this line.")
    is_over = threading.Event()
    (found,) = examination._guarded("clock", lambda: is_over.wait(300), 0.1)
    is_over.set()
    assert (found.name, found.verdict) == ("clock", "fault")
    assert "is mounted" in found.remedy
    assert "no answer within" in found.sentence


def test_a_directory_that_hangs_is_one_fault(tmp_path, monkeypatch):
    is_over = threading.Event()
    asked = []
    monkeypatch.setattr(
        directories, "_check_local", lambda name, path: is_over.wait(300) and []
    )
    monkeypatch.setattr(
        host, "check_clock", lambda path: asked.append(path) or ok("clock", "agrees.")
    )
    wanted = Examination(run_dir=str(tmp_path), seconds=0.1)
    found = list(examination._examine_files(wanted))
    is_over.set()
    assert [each.verdict for each in found] == ["fault", "ok"]
    assert "is mounted" in found[0].remedy
    assert asked == [None]


def test_the_clock_is_that_of_the_checkpoints(tmp_path):
    wanted = Examination(
        run_dir=str(tmp_path / "run"), checkpoint_dir=str(tmp_path / "checkpoints")
    )
    (tmp_path / "checkpoints").mkdir()
    found = list(examination._examine_files(wanted))
    assert found[-1].name == "clock"
    assert str(tmp_path / "checkpoints") in found[-1].sentence
