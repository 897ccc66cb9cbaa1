"""A run directory is one run's; whoever resumes it gets that run, or a refusal."""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import threading

import pytest
from helpers.run_files import read_end, read_metrics

from cnn_jax.checkpoint import (
    Checkpointer,
    CheckpointError,
    DirectoryInUseError,
    ResumeRefusedError,
)
from cnn_jax.checkpoint.lock import DirectoryLock
from cnn_jax.files import FileError
from cnn_jax.report.run_page import write_run_page
from cnn_jax.training import TrainConfig
from cnn_jax.training.run.fit import fit


class KilledError(BaseException):
    """Ends a run as a kill does: nothing is saved on the way."""


def kill_at(step):
    def hook(line, state):
        if line["event"] == "step" and line["step"] >= step:
            raise KilledError

    return hook


@pytest.fixture(scope="module")
def train(tiny_net, digits):
    """Trains by a configuration, perhaps until it is killed at a step."""

    def run(config, *hooks, killed_at=None):
        end = contextlib.nullcontext()
        if killed_at is not None:
            hooks, end = (kill_at(killed_at),), pytest.raises(KilledError)
        with end:
            return fit(
                tiny_net(),
                digits[0],
                test=digits[1],
                config=config,
                callbacks=hooks,
                progress=False,
            )

    return run


CONFIG = TrainConfig(
    model="tiny",
    image_size=8,
    epochs=2,  # of eleven steps
    batch_size=32,
    learning_rate=0.2,
    crop_padding=1,
    log_every_steps=1,
    checkpoint_every_steps=4,
)


@pytest.fixture(scope="module")
def runs(train, tmp_path_factory):
    """The directories of runs that were left alone, killed, and killed early."""
    root = tmp_path_factory.mktemp("runs")
    for name, killed_at in (("alone", None), ("killed", 14), ("early", 3)):
        config = dataclasses.replace(CONFIG, run_dir=str(root / name))
        train(config, killed_at=killed_at)
    return root


@pytest.fixture
def alone(runs):
    """The end of the run that was left alone."""
    return read_end(runs / "alone")


@pytest.fixture
def config(tmp_path):
    """The configuration of a run in a directory that is still to be made."""
    return dataclasses.replace(CONFIG, run_dir=str(tmp_path / "run"))


@pytest.fixture
def finished(config, runs):
    """The configuration of a finished run."""
    shutil.copytree(runs / "alone", config.run_dir)
    return config


@pytest.fixture
def killed(config, runs):
    """The configuration of a run that was killed at step 14; step 12 is saved."""
    shutil.copytree(runs / "killed", config.run_dir)
    return config


@pytest.fixture
def early(config, runs):
    """The configuration of a run that was killed before it was saved."""
    shutil.copytree(runs / "early", config.run_dir)
    return config


def resumed(config, **changes):
    return dataclasses.replace(config, resume=True, **changes)


def file_of(config, name):
    return pathlib.Path(config.run_dir, name)


def snapshot(directory):
    """Returns the content of every file but the locks."""
    return {
        path: path.read_bytes()
        for path in sorted(pathlib.Path(directory).rglob("*"))
        if path.is_file() and path.name != "lock"
    }


# ----------------------------------------------------------------- one run at a time


@pytest.mark.slow
def test_two_runs_do_not_share_a_directory(train, config, tmp_path):
    """Not even if each has its own place for checkpoints."""
    begun, go_on = threading.Event(), threading.Event()

    def wait(line, state):
        begun.set()
        go_on.wait(100)

    def other(**changes):
        return dataclasses.replace(
            config, checkpoint_dir=str(tmp_path / "second"), **changes
        )

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(train, config, wait)
        try:
            assert begun.wait(100)
            message = rf"{config.run_dir}: another run writes here .*{os.getpid()}"
            with pytest.raises(DirectoryInUseError, match=message):
                train(other(resume=True))
        finally:
            go_on.set()
        running.result()
    assert not (tmp_path / "second").exists()
    assert read_metrics(config.run_dir)[-1]["step"] == 22
    write_run_page(config.run_dir)


def test_a_run_that_has_written_nothing_yet_has_its_directory(train, config):
    pathlib.Path(config.run_dir).mkdir()
    with (
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        DirectoryLock(config.run_dir),
        pytest.raises(DirectoryInUseError, match="another run writes here"),
    ):
        pool.submit(train, config).result()
    assert [path.name for path in pathlib.Path(config.run_dir).iterdir()] == ["lock"]


@pytest.mark.slow
def test_the_checkpoints_may_be_in_the_run_directory_itself(train, config, alone):
    config = dataclasses.replace(config, checkpoint_dir=config.run_dir)
    train(config, killed_at=14)
    train(resumed(config))
    assert read_end(config.run_dir) == alone


# ------------------------------------------------------------ which run is continued


def test_a_run_finds_its_checkpoints_elsewhere(
    train, config, alone, tmp_path, monkeypatch
):
    """The directory's own `config.json` names them, in any working directory."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    elsewhere = dataclasses.replace(config, checkpoint_dir="saved")
    train(elsewhere, killed_at=14)
    monkeypatch.chdir(tmp_path / "there")
    train(resumed(config))
    assert read_end(config.run_dir) == alone
    assert not any((tmp_path / "there").iterdir())
    assert not file_of(config, "checkpoints").exists()


@pytest.mark.parametrize("is_there", [True, False])
def test_another_place_without_the_runs_checkpoints_is_refused(
    train, killed, tmp_path, is_there
):
    if is_there:
        (tmp_path / "other").mkdir()
    before = snapshot(killed.run_dir)
    with pytest.raises(ResumeRefusedError, match=r"other: got no checkpoint, expected"):
        train(resumed(killed, checkpoint_dir=str(tmp_path / "other")))
    assert snapshot(killed.run_dir) == before
    assert (tmp_path / "other").exists() == is_there


def test_nor_are_those_of_another_run(train, killed, tmp_path):
    shutil.copytree(killed.run_dir, tmp_path / "twin")
    with Checkpointer(tmp_path / "twin" / "checkpoints") as checkpointer:
        step = checkpointer.latest_step
        checkpointer.amend(step, {**checkpointer.metadata(step), "run": "twin"})
    before = snapshot(killed.run_dir)
    with pytest.raises(ResumeRefusedError, match="the checkpoints of another run"):
        train(resumed(killed, checkpoint_dir=str(tmp_path / "twin" / "checkpoints")))
    assert snapshot(killed.run_dir) == before


def test_a_directory_that_was_moved_is_resumed(train, killed, alone, tmp_path):
    shutil.move(killed.run_dir, tmp_path / "moved")
    moved = resumed(killed, run_dir=str(tmp_path / "moved"))
    train(moved)
    assert read_end(moved.run_dir) == alone


@pytest.mark.slow
def test_checkpoints_that_were_moved_are_named(train, config, alone, tmp_path):
    train(dataclasses.replace(config, checkpoint_dir=str(tmp_path / "a")), killed_at=14)
    shutil.move(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ResumeRefusedError, match=rf"not in {tmp_path}/a\. If they wer"):
        train(resumed(config))
    assert not (tmp_path / "a").exists()
    train(resumed(config, checkpoint_dir=str(tmp_path / "b")))
    assert read_end(config.run_dir) == alone


@pytest.mark.parametrize("left", ["nothing", "the directory"])
def test_checkpoints_that_are_lost_are_no_fresh_start(train, killed, left):
    shutil.rmtree(file_of(killed, "checkpoints"))
    if left == "the directory":
        file_of(killed, "checkpoints").mkdir()
    before = snapshot(killed.run_dir)
    message = "got a run with metrics up to step 14, whose checkpoints are not in"
    with pytest.raises(ResumeRefusedError, match=message):
        train(resumed(killed))
    assert snapshot(killed.run_dir) == before


def test_a_finished_runs_are_not_either(train, finished):
    shutil.rmtree(file_of(finished, "checkpoints"))
    file_of(finished, "checkpoints").mkdir()
    with pytest.raises(ResumeRefusedError, match="got a run with a result, whose"):
        train(resumed(finished))


def test_a_run_killed_before_its_first_save_starts_over(train, early, alone, capsys):
    lines = file_of(early, "metrics.jsonl").read_bytes()
    assert lines
    train(resumed(early))
    assert read_end(early.run_dir) == alone
    err = capsys.readouterr().err
    assert "starting from scratch" in err
    assert "what was there is now metrics.jsonl.unsaved" in err
    assert file_of(early, "metrics.jsonl.unsaved").read_bytes() == lines


def test_it_starts_over_as_the_same_run_only(train, early):
    with pytest.raises(
        ResumeRefusedError, match=r"learning_rate: saved 0\.2, now 0\.1"
    ):
        train(resumed(early, learning_rate=0.1))


@pytest.mark.parametrize("name", ["metrics.jsonl", "result.json", "checkpoints/4/x"])
def test_what_a_run_left_is_not_begun_anew(train, config, name):
    path = file_of(config, name)
    path.parent.mkdir(parents=True)
    path.write_text('{"event": "step", "step": 9, "epoch": 1}\n')
    before = snapshot(config.run_dir)
    with pytest.raises(FileExistsError, match="already holds a run"):
        train(config)
    if name.endswith("x"):
        with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
            train(resumed(config))
    else:
        with pytest.raises(ResumeRefusedError, match="whose checkpoints are not in"):
            train(resumed(config))
    assert snapshot(config.run_dir) == before


@pytest.mark.slow
def test_checkpoints_alone_are_enough(train, killed, alone):
    file_of(killed, "config.json").unlink()
    train(resumed(killed))
    assert read_end(killed.run_dir) == alone


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b"7",
        b"{}",
        b'{"config": 7}',
        b'{"config": {"checkpoint_dir": 7}}',
        b'{"config": {}, "run": []}',
        b'{"config": {}, "dataset": []}',
        b'{"config": {}, "method": "probe"}',
    ],
)
def test_a_configuration_that_no_run_wrote_is_one_sentence(train, config, content):
    pathlib.Path(config.run_dir).mkdir()
    file_of(config, "config.json").write_bytes(content)
    with pytest.raises(FileError, match=r"config\.json: got "):
        train(resumed(config))


# --------------------------------------------------------------------- special files


@pytest.mark.parametrize(
    "name", ["lock", "config.json", "metrics.jsonl", "result.json"]
)
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_refused_before_any_work(train, config, make, name):
    pathlib.Path(config.run_dir).mkdir()
    make(file_of(config, name))
    for changed in (config, resumed(config)):
        with pytest.raises(OSError, match=rf"{config.run_dir}.*"):
            train(changed)
        assert not file_of(config, "checkpoints").exists()


# ------------------------------------------------------------------- the environment


def test_another_environment_is_refused_or_recorded(train, killed, monkeypatch, capsys):
    threads = json.loads(file_of(killed, "config.json").read_text())["environment"][
        "threads"
    ]
    with monkeypatch.context() as other:
        other.setenv("NPROC", "77")
        before = snapshot(killed.run_dir)
        message = rf"(?s)threads: saved {threads}, now 77.*--allow-changed environment"
        for allowed in ((), ("environment.cpu",), ("learning_rate",)):
            with pytest.raises(ResumeRefusedError, match=message):
                train(resumed(killed, allow_changed=allowed))
        assert snapshot(killed.run_dir) == before
        train(resumed(killed, allow_changed=("environment",)), killed_at=18)
        assert f"threads: before {threads}, now 77" in capsys.readouterr().err
        change = {"step": 12, "changed": {"threads": [threads, 77]}}
        line = {"event": "environment", **change}
        assert read_metrics(killed.run_dir)[13] == line
        # It is the run's environment from then on.
        result = train(resumed(killed))
        assert result.environment_changes == [change]
        assert read_metrics(killed.run_dir)[13] == line
    content = json.loads(file_of(killed, "result.json").read_text())
    assert content["environment_changes"] == [change]
    again = train(resumed(killed, allow_changed=("environment.threads",)))
    assert [each["step"] for each in again.environment_changes] == [12, 22]
    write_run_page(killed.run_dir)


@pytest.mark.slow
def test_a_change_that_led_nowhere_is_not_recorded(train, killed, monkeypatch, alone):
    with monkeypatch.context() as other:
        other.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"] + " --xla_cpu_x=1")
        train(resumed(killed, allow_changed=("environment",)), killed_at=13)
        assert read_metrics(killed.run_dir)[-2]["event"] == "environment"
    result = train(resumed(killed))
    assert result.environment_changes == []
    assert read_end(killed.run_dir) == alone


def test_a_checkpoint_without_a_record_resumes_as_before(train, killed, alone):
    with Checkpointer(file_of(killed, "checkpoints")) as checkpointer:
        step = checkpointer.latest_step
        metadata = checkpointer.metadata(step)
        for name in ("environment", "environment_changes", "metrics", "run"):
            del metadata[name]
        checkpointer.amend(step, metadata)
    about = json.loads(file_of(killed, "config.json").read_text())
    del about["environment"], about["run"]
    file_of(killed, "config.json").write_text(json.dumps(about))
    train(resumed(killed))
    assert read_end(killed.run_dir) == alone


PREPARATION = {"mean": [0.25], "std": [0.5]}


def test_what_nobody_gives_is_as_the_run_recorded(train, killed):
    # As weights say it that are known for another mean by now, or for none.
    with Checkpointer(file_of(killed, "checkpoints")) as checkpointer:
        step = checkpointer.latest_step
        metadata = checkpointer.metadata(step)
        for name in ("config", "images"):
            metadata[name] |= PREPARATION
        checkpointer.amend(step, metadata)
    with pytest.raises(ResumeRefusedError, match="mean: saved "):
        train(resumed(killed, mean=(0.125,), std=(0.5,)))
    recorded = train(resumed(killed)).images
    assert {**recorded, **PREPARATION} == recorded
    found = json.loads(file_of(killed, "config.json").read_text())
    for name in ("config", "images"):
        assert found[name] == {**found[name], **PREPARATION}


def test_a_run_that_starts_over_has_the_images_that_it_recorded(train, early):
    about = json.loads(file_of(early, "config.json").read_text())
    about["config"] |= PREPARATION
    about["images"] |= PREPARATION
    file_of(early, "config.json").write_text(json.dumps(about))
    recorded = train(resumed(early)).images
    assert {**recorded, **PREPARATION} == recorded


def test_a_record_of_images_that_no_run_wrote_is_one_sentence(train, early):
    about = json.loads(file_of(early, "config.json").read_text())
    about["images"]["mean"] = "grey"
    file_of(early, "config.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="record of its images that no training"):
        train(resumed(early))


def test_a_record_of_a_newer_version_is_named(train, killed):
    with Checkpointer(file_of(killed, "checkpoints")) as checkpointer:
        step = checkpointer.latest_step
        metadata = checkpointer.metadata(step)
        metadata["record"]["mood"] = "good"
        checkpointer.amend(step, metadata)
    with pytest.raises(CheckpointError, match=r"12: got a checkpoint with 'mood' in"):
        train(resumed(killed))


@pytest.mark.parametrize(
    "change",
    [
        {"versions": None},
        {"environment": 7},
        {"environment_changes": [7]},
        {"config": []},
        {"run": 7},
        {"record": []},
        {"record": {"history": [7]}},
        {"record": {"best_epoch": "1"}},
    ],
)
def test_metadata_that_no_run_wrote_are_one_sentence(train, killed, change):
    with Checkpointer(file_of(killed, "checkpoints")) as checkpointer:
        step = checkpointer.latest_step
        checkpointer.amend(step, {**checkpointer.metadata(step), **change})
    with pytest.raises(CheckpointError, match=r"got .* no (training )?run wrote"):
        train(resumed(killed))


# ------------------------------------------------------------ metrics and the result


@pytest.mark.parametrize(
    "line",
    [
        b"{}\n",
        *(
            pytest.param(line, marks=pytest.mark.slow)
            for line in (b"[1]\n", b'{"event": "st\n', b"[" * 9999 + b"\n", b"\xff\n")
        ),
    ],
)
def test_one_damaged_line_costs_one_line(train, killed, alone, capsys, line):
    path = file_of(killed, "metrics.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:5], line, *lines[6:]])
    path.write_bytes(damaged)
    train(resumed(killed))
    end = read_end(killed.run_dir)
    del alone["metrics"][5]
    assert end == alone
    err = capsys.readouterr().err
    assert "metrics.jsonl is not as the run wrote it; 12 of 13 lines" in err
    assert "now metrics.jsonl.damaged)" in err
    assert file_of(killed, "metrics.jsonl.damaged").read_bytes() == damaged


@pytest.mark.parametrize("kept", [None, 5])
def test_missing_lines_are_noticed(train, killed, alone, capsys, kept):
    path = file_of(killed, "metrics.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.unlink()
    if kept is not None:
        path.write_bytes(b"".join(lines[:kept]))
    train(resumed(killed))
    # What the checkpoint knows is made again: the line of the first epoch.
    steps = [*range(1, 1 + (kept or 0)), *range(13, 23)]
    expected = [
        each
        for each in alone["metrics"]
        if each["event"] == "epoch" or each["step"] in steps
    ]
    end = read_end(killed.run_dir)
    assert end["metrics"] == expected
    assert end["state_digest"] == alone["state_digest"]
    said = "is missing" if kept is None else "is not as the run wrote it"
    assert (
        f"metrics.jsonl {said}; {1 + (kept or 0)} of 13 lin" in capsys.readouterr().err
    )
    train(resumed(killed))
    assert read_end(killed.run_dir) == end
    assert "metrics.jsonl" not in capsys.readouterr().err


def test_a_second_damaged_file_gets_a_number(train, finished):
    for _ in range(2):
        file_of(finished, "metrics.jsonl").write_bytes(b"{}\n")
        train(resumed(finished))
    names = {path.name for path in pathlib.Path(finished.run_dir).glob("metrics.*")}
    assert names == {
        *("metrics.jsonl", "metrics.jsonl.damaged", "metrics.jsonl.damaged-2")
    }


def test_a_finished_run_keeps_its_result(train, finished):
    path = file_of(finished, "result.json")
    result = json.loads(path.read_text())
    bad = [{"origin": "a.jpg", "reason": "cut"}]
    known = {"bad_images": bad, "run_dir": finished.run_dir}
    text = json.dumps({**result, **known}, indent=2) + "\n"
    path.write_text(text)
    again = train(resumed(finished))
    assert path.read_text() == text
    assert again.bad_images == bad
    assert again.step_seconds_median == result["step_seconds_median"] > 0
    assert again.compile_seconds == result["compile_seconds"]


@pytest.mark.parametrize("content", [b"[" * 99_999, b'{"bad_images": 7}'])
def test_a_damaged_result_is_written_again(train, finished, content, capsys):
    path = file_of(finished, "result.json")
    before = json.loads(path.read_text())
    path.write_bytes(content)
    train(resumed(finished))
    after = json.loads(path.read_text())
    assert after["state_digest"] == before["state_digest"]
    is_aside = file_of(finished, "result.json.damaged").exists()
    assert is_aside == (not content.endswith(b"}"))
    assert ("now result.json.damaged" in capsys.readouterr().err) == is_aside
