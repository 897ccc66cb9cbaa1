"""The lines that a resumed run keeps of what it finds."""

import hashlib
import json
import os

import pytest

from cnn_jax.files import FileError
from cnn_jax.training.run.directory.metrics import (
    Written,
    line_of,
    lines_up_to,
    most_recent,
)

HISTORY = [
    {"epoch": number, "step": 4 * number, "loss": 7 / number} for number in (1, 2)
]
LINES = [
    line
    for number in (1, 2)
    for line in [
        *(
            line_of("step", {"step": step, "epoch": number, "loss": 0.1 * step})
            for step in range(4 * number - 3, 4 * number + 1)
        ),
        line_of("epoch", HISTORY[number - 1]),
    ]
]
BEYOND = [line_of("step", {"step": 9, "epoch": 3, "loss": float("nan")})]


def written(lines):
    content = b"".join(lines)
    return Written(len(lines), len(content), hashlib.sha256(content).hexdigest())


def kept(path, *, knows=True, history=HISTORY):
    return lines_up_to(
        path, 8, history, epoch=2, written=written(LINES) if knows else None
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


@pytest.mark.parametrize("knows", [True, False])
@pytest.mark.parametrize("beyond", [[], BEYOND, [*BEYOND, b'{"event": "st'], [b"\0\n"]])
def test_what_was_written_is_kept_and_nothing_beyond(path, beyond, knows):
    path.write_bytes(b"".join([*LINES, *beyond]))
    found = kept(path, knows=knows)
    assert (found.content, found.problem) == (b"".join(LINES), None)


@pytest.mark.parametrize("knows", [True, False])
def test_an_editors_marks_and_line_ends_do_not_matter(path, knows):
    content = b"\xef\xbb\xbf" + b"".join(LINES).replace(b"\n", b"\r\n")
    path.write_bytes(content)
    found = kept(path, knows=knows)
    assert (found.content, found.problem) == (b"".join(LINES), None)


UNSOUND = {
    "cut": LINES[2][:9] + b"\n",
    "zeros": bytes(40) + b"\n",
    "not UTF-8": b"\xff\xfe\n",
    "deep": b"[" * 100_000 + b"\n",
    "object": b"{}\n",
    "list": b"[1]\n",
    "number": b"7\n",
    "null": b"null\n",
    "no step": b'{"event": "step", "epoch": 1}\n',
    "text for a step": b'{"event": "step", "step": "3", "epoch": 1}\n',
    "true for a step": b'{"event": "step", "step": true, "epoch": 1}\n',
    "negative": b'{"event": "step", "step": -3, "epoch": 1}\n',
    "huge": b'{"event": "step", "step": ' + b"9" * 9000 + b', "epoch": 1}\n',
    "another event": b'{"event": "stop", "step": 3, "epoch": 1}\n',
    "nested": b'{"event": "step", "step": 3, "epoch": 1, "loss": [[]]}\n',
    "long": b'{"event": "step", "step": 3, "epoch": 1, "x": "' + b"x" * 2**21 + b'"}\n',
}


@pytest.mark.parametrize("knows", [True, False])
@pytest.mark.parametrize("kind", UNSOUND)
def test_one_damaged_line_costs_that_line(path, kind, knows):
    path.write_bytes(b"".join([*LINES[:2], UNSOUND[kind], *LINES[3:], *BEYOND]))
    found = kept(path, knows=knows)
    assert found.content == b"".join([*LINES[:2], *LINES[3:]])
    total = "9 of 10 lines" if knows else "9 lines"
    assert f"is not as the run wrote it; {total} up to step 8" in found.problem


def test_a_number_that_was_changed_is_noticed(path):
    path.write_bytes(b"".join(LINES).replace(b'"epoch": 1, "loss": 0.1', b'"epoch": 1'))
    assert kept(path).problem is not None


@pytest.mark.parametrize("knows", [True, False])
def test_the_epochs_lines_are_made_again(path, knows):
    changed = [line.replace(b'"loss": 3.5', b'"loss": 3.4') for line in LINES]
    assert changed != LINES
    path.write_bytes(b"".join([*changed[:4], *changed[5:]]))
    found = kept(path, knows=knows)
    assert found.content == b"".join(LINES)
    assert "those of 2 epochs out of the checkpoint" in found.problem


@pytest.mark.parametrize("knows", [True, False])
@pytest.mark.parametrize("number", [0, 3, 7])
def test_a_file_that_was_shortened_is_noticed(path, number, knows):
    path.write_bytes(b"".join(LINES[:number]))
    found = kept(path, knows=knows)
    steps = [line for line in LINES[:number] if b'"step", ' in line]
    epochs = [LINES[4], LINES[9]]
    assert sorted(found.content.splitlines()) == sorted(
        b"".join([*steps, *epochs]).splitlines()
    )
    assert "is not as the run wrote it" in found.problem


@pytest.mark.parametrize("knows", [True, False])
def test_a_file_that_is_missing_is_noticed(path, knows):
    found = kept(path, knows=knows)
    assert found.content == LINES[4] + LINES[9]
    assert "is missing" in found.problem


def test_nothing_is_missing_where_nothing_was_written(path):
    nothing = {"history": [], "epoch": 0}
    assert lines_up_to(path, 8, written=written([]), **nothing).problem is None
    assert lines_up_to(path, 8, written=None, **nothing).problem is None


def test_lines_that_were_doubled_or_changed_places(path):
    path.write_bytes(b"".join([*reversed(LINES), *LINES]))
    found = kept(path)
    assert found.content == b"".join(LINES)


def test_changes_of_the_environment_stay(path):
    change = {"step": 4, "changed": {"threads": [2, 1]}}
    lines = [*LINES[:5], line_of("environment", change), *LINES[5:]]
    path.write_bytes(b"".join([b"\n", *lines]))
    found = lines_up_to(
        path, 8, HISTORY, epoch=2, written=written(lines), changes=[change]
    )
    assert found.content == b"".join(lines)


def test_no_file_but_a_regular_one_is_read(path):
    os.mkfifo(path)
    with pytest.raises(FileError, match="got a named pipe"):
        kept(path)


def test_how_far_a_run_had_come(path):
    assert most_recent(path) == {"step": 0, "epoch": 0}
    path.write_bytes(b"".join([UNSOUND["deep"], *LINES, b"[" * 9, b"\n"]))
    assert most_recent(path) == {"step": 8, "epoch": 2}


@pytest.mark.parametrize(
    "saved",
    [None, 7, {}, {"lines": 1, "size": 2}, {"lines": "1", "size": 2, "sha256": ""}],
)
def test_what_no_version_wrote_says_nothing(saved):
    assert Written.read(saved) is None


def test_what_was_written_survives_json():
    known = written(LINES)
    saved = json.loads(json.dumps(vars(known)))
    assert Written.read(saved) == known
