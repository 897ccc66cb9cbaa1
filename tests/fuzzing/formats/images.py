"""Images of every format, in a folder of a training set."""

from __future__ import annotations

import functools
import io
import pathlib
import random
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from cnn_jax.data.host.decode import FORMATS as KINDS
from fuzzing.formats import Format
from fuzzing.mutations import of_bytes

_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"progressive": True},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "WEBP": {"method": 0},
    "AVIF": {"speed": 10},
    "GIF": {"save_all": True},
}


def _photograph(kind: str) -> list[Image.Image]:
    rows, columns = np.mgrid[:24, :36]
    pixels = np.stack([rows * 7, columns * 5, rows + columns], -1).astype(np.uint8)
    image = Image.fromarray(pixels)
    if kind == "PNG":  # of 16 bits, as many conversions as there can be
        return [image, Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)]
    if kind == "TIFF":
        return [image.convert("CMYK"), Image.fromarray(pixels[..., 0].astype(np.int32))]
    if kind == "GIF":
        return [image.convert("P"), image.convert("P")]
    return [image, image.convert("L")]


def _make(kind: str, directory: pathlib.Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    for name, image in zip("ab", _photograph(kind), strict=True):
        place = directory / "train" / name
        place.mkdir(parents=True)
        file = io.BytesIO()
        options = dict(_OPTIONS.get(kind, {}))
        if kind in ("JPEG", "PNG", "WEBP", "AVIF"):
            options["exif"] = exif
        image.save(file, kind, **options)
        # The content decides, not the name.
        (place / "image.png").write_bytes(file.getvalue())


def _read(directory: pathlib.Path) -> None:
    from cnn_jax.data import open_source
    from cnn_jax.data.host import decode_image

    source = open_source(f"folder:{directory}", "train")
    for index in range(len(source)):
        example = source[index]
        assert isinstance(example.image, bytes)
        decode_image(example.image, origin=example.origin)


def _of_chunks(content: bytes, generator: random.Random) -> bytes:
    """Mutates a PNG's chunk, with a checksum that fits."""
    if not content.startswith(_SIGNATURE):
        return of_bytes(content, generator)
    chunks, position = [], len(_SIGNATURE)
    while position + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, position)
        kind = content[position + 4 : position + 8]
        chunks.append((kind, content[position + 8 : position + 8 + length]))
        position += 12 + length
    index = generator.randrange(len(chunks))
    kind, inside = chunks[index]
    if kind == b"IDAT" and generator.random() < 0.7:
        inside = zlib.compress(of_bytes(zlib.decompress(inside), generator))
    else:
        inside = of_bytes(inside, generator)
    chunks[index] = kind, inside
    if generator.random() < 0.1:
        generator.shuffle(chunks)
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(inside))
        + kind
        + inside
        + struct.pack(">I", zlib.crc32(kind + inside))
        for kind, inside in chunks
    )


def _of_head(content: bytes, generator: random.Random) -> bytes:
    """Mutates what comes first: sizes, depths and where things are."""
    length = generator.choice((32, 64, 256))
    return of_bytes(content[:length], generator) + content[length:]


def _unless_damaged(content: bytes, generator: random.Random) -> bytes:
    try:
        return _of_chunks(content, generator)
    except (ValueError, zlib.error, struct.error, IndexError):
        return of_bytes(content, generator)


def _structured(kind: str) -> tuple[Any, ...]:
    return (_unless_damaged, _of_head) if kind == "PNG" else (_of_head,)


FORMATS = tuple(
    Format(
        kind.lower(),
        functools.partial(_make, kind),
        _read,
        {"*.png": _structured(kind)},
    )
    for kind in KINDS
)
