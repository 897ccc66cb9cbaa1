"""Files that are whole or not there, and what JSON is given."""

import contextlib
import dataclasses
import json
import math
import os
import re
import resource
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


@contextlib.contextmanager
def longest_file(num_bytes):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with (
        longest_file(100),
        pytest.raises(OSError, match=rf"File too large: '{path}'"),
    ):
        files.write_text(path, "new" * 100)
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


def test_an_unfinished_name_that_is_a_link_is_not_followed(tmp_path):
    other = tmp_path / "other"
    for link in (os.symlink, os.link):
        other.write_bytes(b"precious")
        link(other, tmp_path / "file.new")
        files.write_text(tmp_path / "file", "new")
        assert other.read_bytes() == b"precious"
        assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("mode", ["ab", "wb", "r+b"])
def test_no_link_is_opened_for_writing(tmp_path, link, mode):
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    link(other, tmp_path / "file")
    with (
        pytest.raises(OSError, match="file"),
        open(tmp_path / "file", mode, opener=files.open_unlinked),
    ):
        pass
    assert other.read_bytes() == b"precious"


def test_a_file_of_one_name_is_opened_for_writing(tmp_path):
    path = tmp_path / "file"
    for mode, expected in (("wb", b"one"), ("ab", b"oneone"), ("wb", b"one")):
        with open(path, mode, opener=files.open_unlinked) as file:
            file.write(b"one")
        assert path.read_bytes() == expected


def test_only_regular_files_of_a_bounded_length_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(files.FileError, match="pipe: got a named pipe"):
        files.read_bytes(tmp_path / "pipe", max_bytes=10)
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(files.FileError, match="zero: got a device"):
        files.open_regular(tmp_path / "zero")
    with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path))):
        files.read_bytes(tmp_path, max_bytes=10)
    with pytest.raises(FileNotFoundError, match="nothing"):
        files.read_bytes(tmp_path / "nothing", max_bytes=10)
    (tmp_path / "file").write_bytes(bytes(11))
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(files.FileError, match=r"got 11 bytes or more.* at most 10"):
        files.read_bytes(tmp_path / "link", max_bytes=10)
    assert files.read_bytes(tmp_path / "link", max_bytes=11) == bytes(11)
    # The kernel's own files say that they are empty.
    with pytest.raises(files.FileError, match="at most 10"):
        files.read_bytes("/proc/self/maps", max_bytes=10)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "RecursionError"),
        (b"\xff\xfe{", "UnicodeDecodeError"),
        (b"{", "JSONDecodeError"),
        (b"[1]", "expected an object"),
        (b"1" * 5_000, "ValueError"),
    ],
)
def test_json_that_is_damaged_names_the_file(tmp_path, content, message):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(files.FileError, match=rf"file\.json.*{message}"):
        files.read_json(path)


def test_what_a_library_raises_names_the_file():
    with (
        pytest.raises(files.FileError, match=r"^a: got a damaged file \(KeyError"),
        files.reading("a", "a NumPy .npz file"),
    ):
        raise KeyError("name")


@pytest.mark.parametrize(
    "error", [PermissionError(13, "no", "a"), ImportError("x"), KeyboardInterrupt()]
)
def test_an_error_that_is_not_the_files_passes(error):
    with pytest.raises(type(error)), files.reading("a", "any"):
        raise error


def test_an_output_that_is_an_input_is_refused(tmp_path):
    source, other = tmp_path / "source", tmp_path / "other"
    source.write_text("mine")
    os.link(source, other)
    (tmp_path / "link").symlink_to(source)
    for name in ("source", "other", "link"):
        with pytest.raises(files.FileError, match="an output that is an input as well"):
            files.write_output(tmp_path / name, "new", inputs=[source])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text("mine")
    with pytest.raises(files.FileError, match=r"result\.json: got an output"):
        files.write_output(
            tmp_path / "run" / "result.json", "new", inputs=["gs://x", tmp_path / "run"]
        )
    files.write_output(tmp_path / "run" / "new.json", "new", inputs=[tmp_path / "run"])
    assert source.read_text() == "mine"


def test_an_output_takes_the_place_of_a_link(tmp_path):
    (tmp_path / "target").write_text("mine")
    (tmp_path / "out").symlink_to(tmp_path / "target")
    files.write_output(tmp_path / "out", "new")
    assert (tmp_path / "target").read_text() == "mine"
    assert (tmp_path / "out").read_text() == "new"
    files.write_output(tmp_path / "new" / "deep" / "out", "new")
    assert (tmp_path / "new" / "deep" / "out").read_text() == "new"


def test_a_device_stays_a_device(tmp_path):
    files.write_output("/dev/null", "new")
    assert not os.path.isfile("/dev/null")
    with pytest.raises(OSError, match="/dev/full"):
        files.write_output("/dev/full", "new")
