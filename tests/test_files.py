"""Files that are whole or not there, and what JSON is given."""

import dataclasses
import json
import math
import os
import stat

import numpy as np
import pytest

from cnn_jax import files


def names(directory):
    return {path.name for path in directory.iterdir()}


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_appears_when_it_is_complete(tmp_path, shared):
    path = tmp_path / "file"
    with files.whole_file(path, shared=shared) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == {"file"}


def write_half(path, shared):
    with files.whole_file(path, shared=shared) as file:
        file.write(b"half of")
        raise KeyboardInterrupt


@pytest.mark.parametrize("shared", [False, True])
def test_a_failure_leaves_what_was_there(tmp_path, shared):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_half(path, shared)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"file"}


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    (tmp_path / "file.new").write_bytes(b"torn, and longer than the new one")
    files.write_text(tmp_path / "file", "é")
    assert (tmp_path / "file").read_bytes() == "é".encode()
    assert names(tmp_path) == {"file"}


def test_two_who_share_a_file_both_finish(tmp_path):
    path = tmp_path / "file"
    with files.whole_file(path, shared=True) as first:
        first.write(b"first")
        with files.whole_file(path, shared=True) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == {"file"}


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_came_first_stays(tmp_path, links, monkeypatch):
    path = tmp_path / "file"
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with files.whole_file(path, replace=False) as file:
        file.write(b"first")
    assert path.read_bytes() == b"first"
    if links:
        again = files.whole_file(path, replace=False)
        with pytest.raises(FileExistsError), again as file:
            file.write(b"second")
        assert path.read_bytes() == b"first"
    assert names(tmp_path) == {"file"}


def no_links(source, target):
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("shared", [False, True])
def test_others_may_read_what_the_umask_lets_them(tmp_path, shared):
    old = os.umask(0o027)
    try:
        with files.whole_file(tmp_path / "file", shared=shared):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    (tmp_path / "file.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match=rf"No space left on device: '{path}'"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == {"file"}


def test_errors_without_a_number_or_with_a_name_stay_as_they_are(tmp_path):
    for error in (OSError("the library's sentence"), FileNotFoundError(2, "no", "a")):
        with pytest.raises(OSError) as caught, files.naming(tmp_path):
            raise error
        assert caught.value is error


@dataclasses.dataclass
class Interval:
    low: float
    high: float


def test_json_gets_what_it_knows():
    value = {
        1: np.int64(2),
        "a": (math.nan, [math.inf, np.float32(0.5)]),
        "b": Interval(-math.inf, 1.0),
        "c": [True, None, "nan", np.bool_(False)],
    }
    plain = files.json_value(value)
    assert plain == {
        "1": 2,
        "a": [None, [None, 0.5]],
        "b": {"low": None, "high": 1.0},
        "c": [True, None, "nan", 0],
    }
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
