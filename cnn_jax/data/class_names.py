"""The names of classes in a text file that someone wrote."""

from __future__ import annotations

import codecs
import os

from cnn_jax.files import read_bytes

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # Before UTF-16, of which the mark begins like this one.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


MAX_BYTES = 2**24
"""The longest file that is read: names of a hundred thousand classes."""


def read_class_names(path: str | os.PathLike[str]) -> list[str]:
    """Reads one name a line.

    Args:
      path: A text file in UTF-8, or with the byte-order mark of UTF-8, UTF-16 or
        UTF-32, as editors on Windows save it; with the line ends of any system. White
        space around names and empty lines at the end do not count. A name may stand
        there twice: two of ImageNet's classes are called "crane".

    Returns:
      The names, in the order of the classes.

    Raises:
      OSError: If the file cannot be read.
      ValueError: If it is no regular file, longer than `MAX_BYTES` or no such text, has
        no names, or an empty line among them; the message names the file.
    """
    encoded = read_bytes(path, max_bytes=MAX_BYTES)
    encoding = next(
        (name for mark, name in _MARKS if encoded.startswith(mark)), "utf-8"
    )
    try:
        text = encoded.decode(encoding)
    except UnicodeDecodeError as error:
        line = encoded.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}: got bytes that are not {error.encoding} in line {line}, expected "
            "one name a line; save the file as UTF-8."
        ) from error
    if "\0" in text:  # UTF-16 without a mark, or no text at all
        raise ValueError(
            f"{path}: got a zero byte, expected text with one name a line; save the "
            "file as UTF-8."
        )
    # Not `splitlines`, which also divides at characters that a name may have.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    # Files that were joined have marks in the middle.
    names = [line.strip().strip("\ufeff").strip() for line in lines]
    while names and not names[-1]:
        del names[-1]
    if not names:
        raise ValueError(f"{path}: got no names, expected one a line.")
    if not all(names):
        raise ValueError(
            f"{path}: got an empty line {names.index('') + 1}, expected one name a "
            "line."
        )
    return names
