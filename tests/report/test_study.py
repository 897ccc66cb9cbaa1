"""The command line of a study: its exit status and last words."""

import dataclasses

import pytest

from cnn_jax.checkpoint.lock import DirectoryLock, lock_new
from cnn_jax.report import study
from cnn_jax.training.run.stopping import RunStoppedError


@dataclasses.dataclass(frozen=True)
class Config:
    run_dir: str | None = "runs/mine"
    resume: bool = False


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RunStoppedError("SIGTERM", 3, 9, "runs/mine/resnet20"), 75),
        (KeyboardInterrupt(), 130),
    ],
    ids=["in a run", "between runs"],
)
def test_a_signal_ends_a_study_with_the_way_to_go_on(error, status, capsys):
    def run(config):
        raise error

    assert study.conduct(Config(), run, name="mine", subject="digits") == status
    assert "add --run-dir runs/mine --resume" in capsys.readouterr().err


def test_a_directory_without_a_name_is_refused(capsys):
    config = Config(run_dir="")
    assert study.conduct(config, print, name="mine", subject="digits") == 2
    assert "run_dir: got '', expected" in capsys.readouterr().err


def test_a_directory_may_be_named_from_the_home(tmp_path, monkeypatch, capsys):
    def run(config):
        raise ValueError(config.run_dir)

    monkeypatch.setenv("HOME", str(tmp_path))
    assert study.conduct(Config("~/mine"), run, name="mine", subject="digits") == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/mine\n"


def test_a_directory_that_another_process_writes_into_is_refused(tmp_path, capsys):
    def run(config):
        with lock_new(config.run_dir):
            pass

    lock = DirectoryLock(tmp_path)
    config = Config(run_dir=str(tmp_path))
    assert study.conduct(config, run, name="mine", subject="digits") == 2
    lock.release()
    assert "another run writes here" in capsys.readouterr().err
