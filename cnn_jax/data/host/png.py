"""PNG files cut down to what their pixels need (the PNG specification, third edition).

Pillow reads every chunk, and refuses the whole file for one that it does not accept:
a text or a colour profile that expands beyond 1 MB, say. Such chunks do not change the
pixels, so they are left out before it sees them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_TEXT = 2**20
"""Bytes, expanded; the same as Pillow's own limit."""

_WITH_ORIENTATION = frozenset(
    [b"Raw profile type exif", b"XML:com.adobe.xmp", b"exif", b"xmp"]
)
"""Keywords of the texts in which Pillow looks for the orientation."""


def without_metadata(encoded: bytes) -> bytes:
    """Returns a PNG without its texts, colour profile and other descriptive chunks.

    What stays: all critical chunks (header, palette, pixels, end), EXIF, and the first
    text of each keyword that may hold an orientation, unless it expands beyond 1 MB. No
    text is expanded further than that. The frames of an animation other than the
    default image are left out as well, and so is transparency, which is not used.

    Args:
      encoded: A file. One that is no PNG is returned as it is; one that is damaged is
        returned with what follows the damage.
    """
    if not encoded.startswith(_SIGNATURE):
        return encoded
    kept = [_SIGNATURE]
    keywords: set[bytes] = set()
    for kind, content, chunk in _chunks(encoded):
        if kind[:1].isupper() or kind == b"eXIf":
            kept.append(chunk)
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword = content[:80].partition(b"\0")[0]
            if keyword in _WITH_ORIENTATION - keywords:
                keywords.add(keyword)
                if _is_short(kind, content[len(keyword) + 1 :]):
                    kept.append(chunk)
    return b"".join(kept)


def _chunks(encoded: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yields `(type, content, whole chunk)`; what is cut short counts as critical."""
    position = len(_SIGNATURE)
    while position < len(encoded):
        length = int.from_bytes(encoded[position : position + 4], "big")
        end = position + 12 + length
        if end > len(encoded):
            yield b"CUT ", b"", encoded[position:]
            return
        kind = encoded[position + 4 : position + 8]
        yield kind, encoded[position + 8 : end - 4], encoded[position:end]
        if kind == b"IEND":
            return
        position = end


def _is_short(kind: bytes, text: bytes) -> bool:
    """Returns whether a text, without its keyword, expands to no more than 1 MB."""
    compressed = kind == b"zTXt"
    if compressed:
        text = text[1:]  # the method
    elif kind == b"iTXt":
        compressed = text[:1] != b"\0"
        # The flag, the method, the language and the translated keyword.
        text = text[2:].split(b"\0", 2)[-1]
    if not compressed:
        return len(text) <= _MOST_TEXT
    decompressor = zlib.decompressobj()
    try:
        decompressor.decompress(text, _MOST_TEXT)
    except zlib.error:
        return False
    return not decompressor.unconsumed_tail
