"""The machine's description in a report, and what it must not contain."""

import os
import pathlib
import platform
import socket
import subprocess
import sys

import jax
import pytest

from cnn_jax.report import environment

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path, monkeypatch) -> pathlib.Path:
    """A home directory with a project in it, which is the current directory."""
    project = tmp_path / "home" / "project"
    project.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(project)
    for name in environment.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def test_environment_tells_versions_and_devices(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    found = environment.describe_environment()
    assert found.versions["jax"] == jax.__version__
    assert platform.python_version() in found.python
    assert found.devices == (f"{jax.device_count()} x cpu (cpu)",)
    assert found.num_cores >= 1
    assert found.cpu
    assert found.settings["JAX_PLATFORMS"] == "cpu"
    facts = found.facts()
    assert facts["Date"].endswith("+00:00")
    assert "JAX_PLATFORMS=cpu" in facts["Settings"]
    assert all(isinstance(value, str) and value for value in facts.values())


def test_environment_names_no_machine_and_no_place():
    text = " ".join(environment.describe_environment().facts().values())
    assert str(pathlib.Path.home()) not in text.replace("Linux", "")
    assert socket.gethostname() not in text.split()
    assert str(pathlib.Path.cwd()) not in text


def test_command_line_has_no_absolute_path(home):
    command = environment.command_line(
        [
            str(home / "project" / "experiments" / "run me.py"),
            "--data-dir",
            str(home / "data sets"),
            f"--run-dir={home}/project/runs/1",
            "/mnt/disk/tfds",
            "/mnt/lr=0.1/weights.npz",
            "--name",
            "a b",
        ]
    )
    assert command == (
        "python 'experiments/run me.py' --data-dir ~/'data sets' --run-dir=runs/1 "
        "tfds weights.npz --name 'a b'"
    )


def test_command_line_starts_with_the_settings(home, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to={home}/dump --xla_x=2")
    command = environment.command_line(["cnn-jax", "models"])
    assert command == (
        "JAX_PLATFORMS=cpu XLA_FLAGS='--xla_dump_to=~/dump --xla_x=2' cnn-jax models"
    )


def test_command_line_of_a_module_says_so(tmp_path):
    line = "from cnn_jax.report.environment import command_line; print(command_line())"
    (tmp_path / "told.py").write_text(line)
    done = {
        start: subprocess.run(
            [sys.executable, *start, "--runs", "2"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for start in (("-m", "told"), ("told.py",))
    }
    assert done["-m", "told"].endswith("python -m told --runs 2")
    assert done["told.py",].endswith("python told.py --runs 2")


def test_revision_is_that_of_the_repository_that_tracks_the_source(tmp_path):
    def git(*arguments):
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    source, stranger = tmp_path / "source.py", tmp_path / "stranger.py"
    record = tmp_path / "experiments" / "results" / "record.json"
    record.parent.mkdir(parents=True)
    record.write_text("1")
    source.write_text("1")
    stranger.write_text("1")
    git("init")
    assert environment._revision(source) is None
    git("add", "source.py", "experiments")
    git("commit", "-m", "first")
    commit = git("rev-parse", "--short=12", "HEAD")
    assert environment._revision(source) == commit
    assert environment._revision(stranger) is None
    record.write_text("2")
    assert environment._revision(source) == commit
    source.write_text("2")
    assert environment._revision(source) == f"{commit}+changes"
