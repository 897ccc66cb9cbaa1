"""The files of a run."""

import json

import pytest

from cnn_jax.training.records import RunFiles

CONFIG = {"config": {"epochs": 2}}


def write_run(directory, steps, *, resume=False, start=0):
    with RunFiles(directory, resume=resume) as files:
        files.open(CONFIG, step=start, epoch=0)
        for step in steps:
            files.record("step", {"step": step, "epoch": 1, "loss": 0.1 * step})


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


def test_starting_from_scratch_drops_every_line(tmp_path):
    write_run(tmp_path, [1, 2])
    write_run(tmp_path, [1], resume=True)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_what_json_does_not_know_becomes_null(tmp_path):
    with RunFiles(tmp_path, resume=False) as files:
        files.open(CONFIG, step=0, epoch=0)
        files.record("step", {"step": 1, "loss": float("inf")})
        files.write_json("result.json", {"history": [{"loss": float("nan")}]})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line) == {"event": "step", "step": 1, "loss": None}
    result = json.loads((tmp_path / "result.json").read_text())
    assert result == {"history": [{"loss": None}]}


def test_tensorboard_gets_the_same_numbers(tmp_path):
    from tensorboardX import proto

    write_run(tmp_path, [1, 2])
    events = list(tmp_path.glob("events.out.tfevents.*"))
    assert len(events) == 1
    found, content = [], events[0].read_bytes()
    while content:
        length = int.from_bytes(content[:8], "little")
        event = proto.event_pb2.Event.FromString(content[12 : 12 + length])
        found += [
            (event.step, each.tag, each.simple_value) for each in event.summary.value
        ]
        content = content[16 + length :]
    assert [(step, tag) for step, tag, _ in found] == [
        (1, "step/loss"),
        (2, "step/loss"),
    ]
    assert [value for *_, value in found] == pytest.approx([0.1, 0.2])
