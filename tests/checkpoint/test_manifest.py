"""Manifests whose checksum is right and whose content is not."""

import hashlib
import json
import os
import shutil

import pytest
from fixtures.make_checkpoint import DIRECTORY

from cnn_jax.checkpoint import Checkpointer, CheckpointError, DamagedCheckpointWarning


@pytest.fixture
def directory(tmp_path):
    """Two sound checkpoints."""
    for step in (1, 3):
        shutil.copytree(DIRECTORY / "3", tmp_path / str(step))
    change(tmp_path / "1", step=1)
    return tmp_path


def change(path, **values):
    """Changes a manifest's values, and signs it anew."""
    content = json.loads((path / "MANIFEST").read_bytes().partition(b"\n")[2])
    content |= values
    for name in [name for name, value in content.items() if value is ...]:
        del content[name]
    sign(path, json.dumps(content).encode())


def sign(path, body):
    signed = hashlib.sha256(body).hexdigest().encode() + b"\n" + body
    (path / "MANIFEST").write_bytes(signed)


def check_damaged(directory, match):
    """Checks that a checkpoint is refused by name, and passed over otherwise."""
    with Checkpointer(directory, read_only=True) as checkpointer:
        with pytest.raises(CheckpointError, match=match) as error:
            checkpointer.metadata(3)
        assert str(directory / "3") in str(error.value)
        assert checkpointer.steps == (1,)
    with (
        Checkpointer(directory, read_only=True) as checkpointer,
        pytest.warns(DamagedCheckpointWarning, match="Step 1 is used"),
    ):
        assert checkpointer.describe().step == 1


ENTRY = {"size": 1, "sha256": "0" * 64}

VALUES = [
    *({"step": value} for value in (None, "3", 3.0, True, -3, [3], ...)),
    *({"metric": value} for value in ("0.5", [], True, float("nan"), float("inf"))),
    *(
        {"leaves": value}
        for value in (None, [], 3, "x", {"a": 3}, {"a": "float32"}, ...)
    ),
    {"leaves": {"a": "float32[-1]"}},
    {"leaves": {"a": "float32[3,]"}},
    {"leaves": {"a": f"float32[{'9' * 5000}]"}},
    *({"digest": value} for value in (3, [], {})),
    *({"user": value} for value in (None, [], "x", 3, ...)),
    *({"files": value} for value in (None, [], 3, {"a": None}, {"a": {"size": 1}})),
    *({"files": {"a": ENTRY | {"size": value}}} for value in ("1", -1, None, 1.5)),
    *({"files": {"a": ENTRY | {"sha256": value}}} for value in (3, None, "x")),
    *({"files": {name: ENTRY}} for name in ("", "../a", "/etc/passwd", "a/../../b")),
    {"files": {"a\0b": ENTRY}},
    *({"format_version": value} for value in (None, "1", 1.0, True, [], ...)),
]


@pytest.mark.parametrize("values", VALUES, ids=lambda values: str(values)[:60])
def test_each_value_has_its_type(values, directory):
    change(directory / "3", **values)
    check_damaged(directory, "the checkpoint is damaged: ")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"3",
        b"{",
        b"\xff",
        b"[" * 10**5,
        b"9" * 5000,
        b'{"a":' * 999,
    ],
    ids=lambda body: str(body[:9]),
)
def test_another_document(body, directory):
    sign(directory / "3", body)
    check_damaged(directory, "MANIFEST: got a damaged file")


def test_what_a_newer_version_says_is_not_passed_over(directory):
    change(directory / "3", compression="zstd", owner="\x1b[31m")
    with Checkpointer(directory, read_only=True) as checkpointer:
        for use in (checkpointer.metadata, lambda: checkpointer.steps):
            with pytest.raises(CheckpointError) as error:
                use()
            text = str(error.value)
            assert str(directory / "3") in text
            assert "knows (compression, owner): a newer version of cnn_jax made" in text


def test_a_newer_format_of_any_number(directory):
    change(directory / "3", format_version=10**30)
    with (
        Checkpointer(directory, read_only=True) as checkpointer,
        pytest.raises(CheckpointError, match=r"format 1000.*expected format 1"),
    ):
        checkpointer.metadata()


def test_a_long_one_is_not_read(directory):
    with (directory / "3" / "MANIFEST").open("ab") as file:
        file.truncate(2**30)
    check_damaged(directory, "MANIFEST cannot be read .*at most 16,777,216")


def test_one_that_is_too_long_to_be_read_is_not_written(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, {"a": 1.0}, {"note": "x" * 2**24})
        with pytest.raises(CheckpointError, match=r"got metadata of 16,.* bytes"):
            checkpointer.wait()


@pytest.mark.parametrize("special", ["pipe", "device", "endless"])
@pytest.mark.parametrize("is_listed", [True, False])
def test_files_that_are_none(special, is_listed, directory):
    path = directory / "3" / "more"
    if special == "pipe":
        os.mkfifo(path)
    else:  # `pagemap` calls itself a regular file of no bytes
        target = {"device": "/dev/zero", "endless": "/proc/self/pagemap"}[special]
        path.symlink_to(target)
    if is_listed:
        content = (directory / "3" / "MANIFEST").read_bytes().partition(b"\n")[2]
        listed = json.loads(content)["files"] | {"more": ENTRY | {"size": 0}}
        change(directory / "3", files=listed)
    elif special == "endless":
        return  # nothing opens it
    problem = r"more.*(is no file|named pipe|a device|more bytes than it says)"
    with (
        Checkpointer(directory, read_only=True) as checkpointer,
        pytest.raises(CheckpointError, match=problem),
    ):
        checkpointer.metadata(3)
