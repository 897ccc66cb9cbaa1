"""Files with the names of classes, as editors of all systems save them."""

import codecs
import os

import pytest

from cnn_jax.data.class_names import read_class_names

NAMES = ["cat", "café au lait", "雪", "crane", "crane"]


def read(tmp_path, content):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    return read_class_names(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n\n", "\n  \n"])
@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
        ("utf-32-be", codecs.BOM_UTF32_BE),
    ],
)
def test_encodings_and_line_ends(tmp_path, encoding, mark, last, end):
    text = ("\n".join(NAMES) + last).replace("\n", end)
    assert read(tmp_path, mark + text.encode(encoding)) == NAMES


def test_white_space_and_marks_around_names(tmp_path):
    content = codecs.BOM_UTF8 + b" a b\t\n" + codecs.BOM_UTF8 + b"c\n\td \n"
    assert read(tmp_path, content) == ["a b", "c", "d"]


def test_a_name_may_have_what_divides_lines_elsewhere(tmp_path):
    names = ["a\u2028b", "c\x0bd", "e\x85f"]
    assert read(tmp_path, "\n".join(names).encode()) == names


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a\ncafé\n".encode("latin-1"), "bytes that are not utf-8 in line 2, expected"),
        (codecs.BOM_UTF16_LE + b"a\0b", "bytes that are not utf-16"),
        ("cat\n".encode("utf-16-le"), "a zero byte, expected text"),
        (b"\x89PNG\r\n\x1a\n\0\0", "bytes that are not utf-8 in line 1"),
        (b"", "no names"),
        (codecs.BOM_UTF8 + b"\r\n\r\n", "no names"),
        (b"a\n\nb\n\n\n", "an empty line 2"),
        (b"a\r\n \r\nb", "an empty line 2"),
        (codecs.BOM_UTF8 + b"\na", "an empty line 1"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(tmp_path, content, reason):
    with pytest.raises(ValueError, match=rf"/names\.txt: got {reason}"):
        read(tmp_path, content)


def test_what_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "missing.txt"):
        with pytest.raises(OSError, match=str(path)):
            read_class_names(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_never_ends_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe: got a named pipe, expected a regular"):
        read_class_names(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"/dev/zero: got a device"):
        read_class_names("/dev/zero")
    (tmp_path / "long").write_bytes(b"a name\n" * 2**22)
    with pytest.raises(ValueError, match=r"long: got 29,360,128 bytes"):
        read_class_names(tmp_path / "long")
