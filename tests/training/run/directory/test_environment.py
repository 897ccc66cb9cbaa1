"""The environment of a run, recorded and compared."""

import copy
import json
import os

import jax
import pytest

from cnn_jax.checkpoint import ResumeRefusedError
from cnn_jax.training.config.run import ENVIRONMENT
from cnn_jax.training.run.directory.environment import (
    SPREAD,
    changed_environment,
    check_environment,
    numeric_environment,
)


def found():
    return numeric_environment(jax.devices())


def test_it_has_the_parts_that_may_be_allowed_and_json_holds_them():
    record = found()
    assert tuple(record) == (*ENVIRONMENT, *SPREAD)
    assert json.loads(json.dumps(record)) == record
    assert record == found()
    assert record["devices"] == jax.device_count()
    assert None not in record["options"].values() or jax.__version__ > "0.10"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", {}),
        ("--xla_backend_optimization_level=1", {"xla_backend_optimization_level": "1"}),
        ("--xla_cpu_a --xla_cpu_b=TRUE", {"xla_cpu_a": "true", "xla_cpu_b": "true"}),
        ("--xla_b=1 --xla_a=2 --xla_b=3", {"xla_a": "2", "xla_b": "3"}),
        ("--xla_a='x y'", {"xla_a": "x y"}),
        ("--xla_a='x", {"xla_a": "'x"}),
        ("--xla_dump_to=/tmp/x --xla_dump_hlo_as_text --xla_log_x=1", {}),
        ("--xla_force_host_platform_device_count=8", {}),
        ("--xla_gpu_a=1 --xla_tpu_a=2", {}),
        ("no/such/file", {}),
    ],
)
def test_flags_that_matter_are_told_from_those_that_do_not(
    monkeypatch, flags, expected
):
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert found()["xla_flags"] == expected


def test_flags_may_stand_in_a_file(monkeypatch, tmp_path):
    (tmp_path / "flags").write_text("--xla_a=1\n--xla_dump_to=x\n")
    monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "flags"))
    assert found()["xla_flags"] == {"xla_a": "1"}
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "pipe"))
    assert found()["xla_flags"] == {}


def test_the_number_of_threads_is_what_xla_makes(monkeypatch):
    for name in ("NPROC", "PJRT_NPROC"):
        monkeypatch.delenv(name, raising=False)
    cores = sorted(os.sched_getaffinity(0))
    assert found()["threads"] == len(cores)
    os.sched_setaffinity(0, cores[:1])
    try:
        assert found()["threads"] == 1
    finally:
        os.sched_setaffinity(0, cores)
    monkeypatch.setenv("NPROC", "3")
    assert found()["threads"] == 3
    monkeypatch.setenv("PJRT_NPROC", "5")
    assert found()["threads"] == 5
    monkeypatch.setenv("PJRT_NPROC", "many")
    assert found()["threads"] == 3


@pytest.mark.parametrize(
    ("part", "context"),
    [
        ("x64", lambda: jax.enable_x64(True)),
        ("prng", lambda: jax.threefry_partitionable(False)),
        ("matmul_precision", lambda: jax.default_matmul_precision("bfloat16")),
        ("options", lambda: jax.numpy_dtype_promotion("strict")),
    ],
)
def test_settings_of_jax_are_seen(part, context):
    before = found()
    with context():
        after = found()
    assert list(changed_environment(before, after)) == [part]


def test_variables_that_reach_the_kernels_are_seen(monkeypatch):
    before = found()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("HOME", "elsewhere")
    assert list(changed_environment(before, found())) == ["variables"]


@pytest.mark.parametrize("part", ENVIRONMENT)
def test_a_difference_is_refused_unless_it_is_allowed(part):
    saved = found()
    other = {**saved["options"], "jax_disable_jit": "?"} if part == "options" else "?"
    now = {**saved, part: other}
    neighbour = "environment." + ENVIRONMENT[ENVIRONMENT.index(part) - 1]
    for allowed in ((), (neighbour,), ("epochs", part)):
        with pytest.raises(
            ResumeRefusedError, match=rf"(?s)environment.*  {part}: sav"
        ):
            check_environment(saved, now, allowed)
    check_environment(saved, now, ("environment",))
    check_environment(saved, now, (f"environment.{part}", "epochs"))


def test_another_number_of_devices_and_processes_is_no_refusal():
    saved = found()
    now = {**saved, "devices": 1, "processes": 4}
    check_environment(saved, now, ())
    expected = {"devices": [saved["devices"], 1], "processes": [1, 4]}
    assert changed_environment(saved, now) == expected


def test_what_one_version_does_not_record_is_not_compared():
    now = found()
    assert changed_environment({}, now) == {}
    check_environment({}, now, ())
    check_environment({**now, "news": 1}, now, ())
    saved = copy.deepcopy(now)
    saved["options"].pop("jax_disable_jit")
    saved["options"]["jax_optimization_level"] = None
    assert changed_environment(saved, now) == {}
