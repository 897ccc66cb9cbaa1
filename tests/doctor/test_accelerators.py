"""TPUs and GPUs, and who holds them."""

import fcntl
import os
import pathlib
import subprocess
import sys

import pytest

from cnn_jax.doctor import accelerators


@pytest.fixture
def chips(tmp_path, monkeypatch):
    """Attaches chips; returns the function that does."""
    monkeypatch.setattr(accelerators, "PCI", tmp_path)

    def attach(*devices):
        for number, device in enumerate(devices):
            directory = tmp_path / f"0000:00:{number:02x}.0"
            directory.mkdir()
            (directory / "vendor").write_text("0x1ae0\n")
            (directory / "device").write_text(f"{device}\n")

    return attach


def install(monkeypatch, **versions):
    monkeypatch.setattr(
        accelerators, "installed", lambda name: versions.get(name.replace("-", "_"))
    )


def test_libtpu_and_chips(chips, monkeypatch):
    install(monkeypatch)
    assert accelerators.check_tpu().verdict == "ok"
    install(monkeypatch, libtpu="0.0.30")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert accelerators.check_tpu().verdict == "ok"
    monkeypatch.delenv("JAX_PLATFORMS")
    found = accelerators.check_tpu()
    assert (found.verdict, "JAX_PLATFORMS=cpu" in found.remedy) == ("warning", True)
    chips("0x0063", "0x0063", "0x0042")  # the last is a network card
    found = accelerators.check_tpu()
    assert (found.verdict, found.sentence[:21]) == ("ok", "2 chips are attached,")
    install(monkeypatch)
    found = accelerators.check_tpu()
    assert (found.verdict, "jax[tpu]" in found.remedy) == ("fault", True)


HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def require_listed(path):
    """Skips the test where the system does not list its own lock of a file."""
    status = path.stat()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    with open(path, "w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        try:
            listed = pathlib.Path("/proc/locks").read_text()
        except OSError:
            listed = ""
    if f"{device}:{status.st_ino} " not in listed:
        pytest.skip("/proc/locks does not list locks here")


def test_a_lock_names_its_process(tmp_path, monkeypatch, chips):
    chips("0x0063")
    path = tmp_path / "lock"
    monkeypatch.setattr(accelerators, "LOCK_FILE", path)
    assert "is not there" in accelerators.check_tpu_lock().sentence
    path.write_text("")
    require_listed(path)
    found = accelerators.check_tpu_lock()
    assert (found.verdict, "left behind" in found.sentence) == ("ok", True)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        process.stdout.readline()
        found = accelerators.check_tpu_lock()
    finally:
        process.communicate()
    assert found.verdict == "fault"
    if f"process {process.pid}" not in found.sentence:
        pytest.fail(found.sentence)
    assert "Wait" in found.remedy
    assert path.exists()
    assert accelerators.check_tpu_lock().verdict == "ok"


def test_its_own_lock_holds_nobody_up(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    monkeypatch.setattr(accelerators, "LOCK_FILE", path)
    with open(path, "w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert accelerators.check_tpu_lock().verdict == "ok"


def test_a_lock_file_of_somebody_else(tmp_path, monkeypatch, chips):
    path = tmp_path / "lock"
    path.write_text("")
    monkeypatch.setattr(accelerators, "LOCK_FILE", path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert accelerators.check_tpu_lock().verdict == "warning"
    chips("0x0063")
    found = accelerators.check_tpu_lock()
    assert (found.verdict, "sudo rm" in found.remedy) == ("fault", True)


def test_a_held_lock_without_a_chip_is_a_warning(tmp_path, monkeypatch, chips):
    path = tmp_path / "lock"
    path.write_text("")
    monkeypatch.setattr(accelerators, "LOCK_FILE", path)
    monkeypatch.setattr(accelerators, "_holders", lambda status: [2**22 + 1])
    assert accelerators.check_tpu_lock().verdict == "warning"
    chips("0x0063")
    assert accelerators.check_tpu_lock().verdict == "fault"


def test_one_chip_is_not_many(chips, monkeypatch):
    install(monkeypatch, libtpu="0.0.30")
    chips("0x0063")
    assert accelerators.check_tpu().sentence.startswith("1 chip is attached,")


def test_a_gpu_and_its_plugin(tmp_path, monkeypatch):
    device = tmp_path / "nvidia0"
    monkeypatch.setattr(accelerators, "_NVIDIA", (str(device),))
    install(monkeypatch)
    assert accelerators.check_gpu().verdict == "ok"
    install(monkeypatch, jax_cuda13_plugin="0.12.0")
    assert accelerators.check_gpu().verdict == "warning"
    device.write_text("")
    found = accelerators.check_gpu()
    assert (found.verdict, "0.12.0" in found.sentence) == ("ok", True)
    install(monkeypatch, jax_cuda13_plugin="0.12.0", jax_cuda12_plugin="0.12.0")
    assert accelerators.check_gpu().verdict == "fault"
    install(monkeypatch)
    found = accelerators.check_gpu()
    assert (found.verdict, "jax[cuda13]" in found.remedy) == ("warning", True)
