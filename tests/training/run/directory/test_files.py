"""The files of a run."""

import contextlib
import json
import os

import pytest
from helpers.full_disk import no_space_for

from cnn_jax.training.run.directory.files import RunFiles

CONFIG = {"config": {"epochs": 2}}


def write_run(directory, steps, *, resume=False, start=0):
    with RunFiles(directory, resume=resume) as files:
        files.open(CONFIG, step=start, epoch=0)
        for step in steps:
            files.write_metrics("step", {"step": step, "epoch": 1, "loss": 0.1 * step})


def test_a_second_run_in_one_directory_is_refused(tmp_path):
    write_run(tmp_path / "new" / "run", [1])
    with pytest.raises(FileExistsError, match=r"already holds a run.*--resume"):
        RunFiles(tmp_path / "new" / "run", resume=False)


def test_a_directory_with_other_files_is_accepted(tmp_path):
    (tmp_path / "notes.txt").write_text("kept")
    write_run(tmp_path, [1])
    assert (tmp_path / "notes.txt").read_text() == "kept"


@pytest.mark.parametrize("torn", ["", '{"event": "step", "st', "\x00\x00\n"])
def test_lines_beyond_the_restored_step_are_dropped(tmp_path, torn):
    write_run(tmp_path / "whole", [1, 2, 3, 4])
    write_run(tmp_path / "cut", [1, 2, 3])
    with open(tmp_path / "cut" / "metrics.jsonl", "a") as file:
        file.write(torn)
    write_run(tmp_path / "cut", [3, 4], resume=True, start=2)
    whole, cut = (
        (tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")
    )
    assert cut == whole
    assert [json.loads(line)["step"] for line in cut.splitlines()] == [1, 2, 3, 4]


def test_a_byte_order_mark_does_not_cost_the_lines(tmp_path):
    """As an editor on Windows leaves it in a file that was looked at and saved."""
    write_run(tmp_path, [1, 2, 3])
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole, encoding="utf-8-sig")
    write_run(tmp_path, [3], resume=True, start=2)
    assert path.read_text() == whole


def test_starting_from_scratch_drops_every_line(tmp_path):
    write_run(tmp_path, [1, 2])
    write_run(tmp_path, [1], resume=True)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_what_json_does_not_know_becomes_null(tmp_path):
    with RunFiles(tmp_path, resume=False) as files:
        files.open(CONFIG, step=0, epoch=0)
        files.write_metrics("step", {"step": 1, "loss": float("inf")})
        files.write_json("result.json", {"history": [{"loss": float("nan")}]})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line) == {"event": "step", "step": 1, "loss": None}
    result = json.loads((tmp_path / "result.json").read_text())
    assert result == {"history": [{"loss": None}]}


def read_events(path):
    """Returns the events of a file."""
    from tensorboardX import proto

    found, content = [], path.read_bytes()
    while content:
        length = int.from_bytes(content[:8], "little")
        found.append(proto.event_pb2.Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def read_scalars(path):
    return [
        (event.step, each.tag, pytest.approx(each.simple_value))
        for event in read_events(path)
        for each in event.summary.value
    ]


def test_tensorboard_gets_the_same_numbers(tmp_path):
    write_run(tmp_path, [1, 2])
    (path,) = tmp_path.glob("events.out.tfevents.*")
    assert read_scalars(path) == [(1, "step/loss", 0.1), (2, "step/loss", 0.2)]
    assert read_events(path)[0].file_version == "brain.Event:2"
    # What every event file begins with: 24 bytes of data, and that length's sum.
    assert path.read_bytes()[:12] == bytes.fromhex("18000000000000 00a37f4b22")


def test_tensorboard_forgets_what_a_resumed_run_does_again(tmp_path, monkeypatch):
    write_run(tmp_path, [1, 2, 3])
    monkeypatch.setattr(os, "getpid", lambda: 1)  # another process, in this second
    write_run(tmp_path, [2], resume=True, start=1)
    old, new = sorted(
        tmp_path.glob("events.out.tfevents.*"),
        key=lambda path: -len(read_scalars(path)),
    )
    assert len(read_scalars(old)) == 3
    assert read_scalars(new) == [(2, "step/loss", 0.2)]
    start = read_events(new)[1]
    assert (start.step, start.session_log.status) == (2, start.session_log.START)


def rewrite(files):
    files.open({"new": 1}, step=1, epoch=0)
    files.write_json("result.json", {"new": 1})


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "result.json"])
def test_a_full_disk_leaves_the_old_file_and_is_named(tmp_path, name):
    write_run(tmp_path, [1])
    with RunFiles(tmp_path, resume=True) as files:
        files.write_json("result.json", {"old": 1})
        old = (tmp_path / name).read_text()
        with (
            no_space_for(name),
            pytest.raises(OSError, match=f"No space left on device: .*/{name}'"),
        ):
            rewrite(files)
    assert (tmp_path / name).read_text() == old
    assert not (tmp_path / f"{name}.new").exists()


@pytest.mark.parametrize("make", [os.symlink, os.link])
@pytest.mark.parametrize(
    "name",
    [
        *("lock", "config.json.new", "metrics.jsonl.new", "result.json.new"),
        *("config.json", "metrics.jsonl", "result.json"),
    ],
)
def test_no_link_in_the_directory_is_written_through(tmp_path, make, name):
    other, directory = tmp_path / "other", tmp_path / "run"
    other.write_text("precious")
    directory.mkdir()
    make(other, directory / name)
    for resume in (False, True):
        with contextlib.suppress(OSError), RunFiles(directory, resume=resume) as files:
            rewrite(files)
            files.write_metrics("step", {"step": 2, "epoch": 1, "loss": 0.5})
    assert other.read_text() == "precious"
    assert not other.is_symlink()


@pytest.mark.parametrize("name", ["metrics", "events"])
def test_a_disk_that_fills_up_is_told_with_the_first_number(tmp_path, name):
    with RunFiles(tmp_path, resume=False) as files:
        files.open(CONFIG, step=0, epoch=0)
        (path,) = tmp_path.glob(f"{name}.*")
        for descriptor in os.listdir("/proc/self/fd"):
            link = f"/proc/self/fd/{descriptor}"
            if os.path.realpath(link) == str(path):
                full = os.open("/dev/full", os.O_WRONLY)
                os.dup2(full, int(descriptor))
                os.close(full)
        with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
            files.write_metrics("step", {"step": 1, "loss": 0.1})
