"""A process that hangs or ends: what it was doing has a name."""

import json
import os
import tempfile

import pytest

from cnn_jax.doctor import child, computations, devices, inside
from cnn_jax.doctor.child import Answer
from cnn_jax.doctor.known_faults import judge_known_faults
from cnn_jax.doctor.processes import check_group
from cnn_jax.training.devices import processes as training_processes


@pytest.fixture
def begins_with(tmp_path, monkeypatch):
    """Has each Python that is started begin with some code."""

    def give(code):
        (tmp_path / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return give


def test_a_process_that_hangs_is_ended_in_time(begins_with):
    begins_with("import time; time.sleep(600)")
    answer = child.ask({}, 0.5)
    assert answer.is_late
    assert answer.unfinished == "start"
    (found,) = devices.check_devices(answer)
    assert found.verdict == "fault"
    assert "importing jax failed: it did not answer within 0 s" in found.sentence


def test_a_process_that_aborts_is_told_with_its_last_words(begins_with):
    begins_with(
        "import os, sys; sys.stderr.write('no such chip\\n'); sys.stderr.flush(); "
        "os.abort()"
    )
    answer = child.ask({}, 60.0)
    assert not answer.is_late
    (found,) = devices.check_devices(answer)
    assert "ended by SIGABRT" in found.sentence
    assert "no such chip" in found.sentence


@pytest.mark.slow
def test_a_platform_that_is_not_there_is_a_fault(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    answer = child.ask({}, 120.0)
    (found,) = devices.check_devices(answer)
    assert found.verdict == "fault"
    assert "initialising the devices failed" in found.sentence
    assert "JAX_PLATFORMS=cuda" in found.sentence


def lines(*parts):
    return b"".join(json.dumps(part).encode() + b"\n" for part in parts)


def test_what_was_found_before_the_end_is_kept():
    text = lines(
        ["begin", "devices", None],
        ["end", "devices", {"result": 1}],
        ["begin", "arithmetic", None],
    )
    answer = child._answer(text + b'["end", "arith', "", -11, None)
    assert answer == Answer(
        {"devices": {"result": 1}},
        "arithmetic",
        "its process was ended by SIGSEGV",
        "",
    )
    assert child._answer(text, "", None, 5.0).is_late
    whole = child._answer(text + lines(["end", "end", None]), "", -6, None)
    assert whole.unfinished is None


DEVICES = {
    "platform": "gpu",
    "processes": 2,
    "count": 4,
    "local": [
        {"id": 0, "platform": "gpu", "kind": "H", "memory": 80 * 10**9},
        {"id": 1, "platform": "gpu", "kind": "H", "memory": 80 * 10**9},
    ],
    "runtime": "cuda",
}


def answer_of(**found):
    stages = {name: {"result": result} for name, result in found.items()}
    return Answer({"devices": {"result": DEVICES}, **stages}, None, "", "")


def test_devices_and_a_wrong_one():
    found = list(devices.check_devices(answer_of(arithmetic=[])))
    assert [each.verdict for each in found] == ["ok", "ok"]
    assert found[0].sentence == "gpu: 2 x H, 80 GB each, of 4 of all processes."
    found = list(devices.check_devices(answer_of(arithmetic=[1])))
    assert found[1].verdict == "fault"
    assert "[1]" in found[1].sentence


def test_a_gpu_whose_convolutions_fail():
    check = devices.check_accelerated_convolution
    assert check(answer_of(shifted_convolution=0.0)).verdict == "ok"
    assert check(answer_of(shifted_convolution=0.5)).verdict == "fault"
    failed = Answer(
        {
            "devices": {"result": DEVICES},
            "shifted_convolution": {"error": "XlaRuntimeError: CUDNN_STATUS"},
        },
        *(None, "", ""),
    )
    found = check(failed)
    assert (found.verdict, "CUDNN_STATUS" in found.sentence) == ("fault", True)


def test_settings_that_make_runs_slow_are_warnings(tmp_path):
    settings = {
        **dict.fromkeys(devices.OPTIONS, False),
        "x64": True,
        "prng": "threefry2x32",
        "matmul_precision": None,
        "cache": None,
        "xla_flags": "",
        "jax_debug_nans": True,
    }
    found = {f.name: f for f in devices.check_settings(answer_of(settings=settings))}
    assert found["debugging settings"].verdict == "warning"
    assert "jax_debug_nans" in found["debugging settings"].sentence
    assert found["64-bit types"].verdict == "warning"
    assert "TF32" in found["matmul precision"].sentence
    check = devices.check_cache
    assert check(settings).verdict == "ok"
    assert check({"cache": str(tmp_path / "new")}).verdict == "ok"
    assert check({"cache": "gs://bucket/cache"}).verdict == "ok"
    assert check({"cache": "/proc/sys/cache"}).verdict in ("ok", "warning")
    (tmp_path / "file").write_text("")
    assert check({"cache": str(tmp_path / "file")}).verdict == "warning"


def test_no_directory_for_temporary_files_is_needed(begins_with, monkeypatch):
    if not hasattr(os, "memfd_create"):
        pytest.skip("the system has no files in memory")
    begins_with("import os; os.write(2, b'said'); os._exit(3)")
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/none"])
    answer = child.ask({}, 60.0)
    assert (answer.problem, answer.errors) == (
        "its process ended with status 3",
        "said",
    )


def test_programs_of_the_other_process_are_not_kept():
    assert child._environment()["JAX_ENABLE_COMPILATION_CACHE"] == "false"


@pytest.mark.parametrize("task", [{"join": {"coordinator_address": "none"}}, {}])
def test_what_ends_early_has_answered(task, monkeypatch):
    """The way of `inside.main` with no device, or no group, as the other reads it."""

    def fail(*arguments, **options):
        raise RuntimeError("none here")

    monkeypatch.setattr(computations, "describe_devices", fail)
    monkeypatch.setattr(training_processes, "initialize_hosts", fail)
    monkeypatch.setattr(inside.faulthandler, "dump_traceback_later", fail_not)
    monkeypatch.setattr(inside.resource, "setrlimit", fail_not)
    reader, writer = os.pipe()
    with open(reader, "rb") as answers:
        inside.main(writer, {"seconds": 60.0, "abort": True, **task})
        os.close(writer)
        answer = child._answer(answers.read(), "", 0, None)
    assert (answer.unfinished, answer.problem) == (None, "")
    (found,) = devices.check_devices(answer)
    what = "joining the group of processes" if task else "initialising the devices"
    assert f"{what} failed" in found.sentence
    assert "RuntimeError: none here" in found.sentence
    reason = "the processes were not connected" if task else "there is no device"
    for known in judge_known_faults("0.10.2", None, answer):
        assert f"not tried: {reason}." in known.sentence
    if task:
        group = check_group(answer, 2)
        assert "RuntimeError: none here" in group.sentence


def fail_not(*arguments, **options):
    """Does nothing to the process of the tests."""


def test_a_cache_that_the_system_does_not_let_be_seen_is_a_warning(tmp_path):
    path = tmp_path / ("n" * 300)  # refused, as without permission
    assert devices.check_cache({"cache": str(path)}).verdict == "warning"
