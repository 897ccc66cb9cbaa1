"""PNG files with sound pixels and something beside them that Pillow refuses."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from cnn_jax.data import ImageError
from cnn_jax.data.host import decode_image
from cnn_jax.data.host.png import without_metadata

MEGABYTE = 2**20
PIXELS = np.arange(7 * 5 * 3, dtype=np.uint8).reshape(7, 5, 3)


def chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def chunks(encoded):
    found, position = [], 8
    while position < len(encoded):
        length = int.from_bytes(encoded[position : position + 4], "big")
        found.append(encoded[position : position + 12 + length])
        position += 12 + length
    return found


def png(*more, at=1, pixels=PIXELS, **options):
    """Returns a PNG with more chunks, 1 for after the header and -1 before the end."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    parts = chunks(file.getvalue())
    parts[at:at] = more
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def text(size, kind=b"zTXt", keyword=b"Comment"):
    content = b"a" * size
    if kind == b"tEXt":
        return chunk(kind, keyword + b"\0" + content)
    if kind == b"zTXt":
        return chunk(kind, keyword + b"\0\0" + zlib.compress(content))
    if kind == b"iTXt":
        return chunk(kind, keyword + b"\0\1\0en\0\0" + zlib.compress(content))
    return chunk(b"iCCP", keyword + b"\0\0" + zlib.compress(content))


def decode(encoded):
    return decode_image(encoded, origin="here.png")


@pytest.mark.parametrize("at", [1, -1])
@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
@pytest.mark.parametrize("keyword", [b"Comment", b"XML:com.adobe.xmp", b"exif"])
def test_more_than_a_megabyte_of_text(kind, keyword, at):
    encoded = png(text(2 * MEGABYTE, kind, keyword), at=at)
    with pytest.raises(ValueError, match="too large"):
        Image.open(io.BytesIO(encoded)).load()
    np.testing.assert_array_equal(decode(encoded), PIXELS)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
@pytest.mark.parametrize("keyword", [b"Comment", b"xmp"])
def test_many_texts(kind, keyword):
    """More than the 64 MB that Pillow allows in all."""
    encoded = png(*[text(MEGABYTE, kind, keyword)] * 70)
    np.testing.assert_array_equal(decode(encoded), PIXELS)


@pytest.mark.parametrize("keyword", [b"Comment", b"XML:com.adobe.xmp"])
def test_texts_are_not_expanded(keyword):
    encoded = png(*[text(64 * MEGABYTE, b"iTXt", keyword)] * 3)
    tracemalloc.start()
    np.testing.assert_array_equal(decode(encoded), PIXELS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * MEGABYTE + 4 * len(encoded)


@pytest.mark.parametrize(
    "damaged",
    [
        chunk(b"iCCP", b"profile\0\7abc"),  # a method that there is not
        chunk(b"iCCP", b"profile"),
        chunk(b"zTXt", b"Comment\0\7abc"),
        chunk(b"zTXt", b"exif\0\0" + b"no zlib"),
        chunk(b"iTXt", b"xmp"),
        chunk(b"gAMA", b"\0"),
        chunk(b"cHRM", b"\0"),
        chunk(b"sRGB", b""),
        chunk(b"pHYs", b"\0"),
        chunk(b"tRNS", b"\0"),
        chunk(b"acTL", b"\0"),
        chunk(b"fcTL", b"\0"),
        chunk(b"tEXt", b"Comment\0a")[:-1] + b"\0",  # the checksum
    ],
    ids=lambda content: content[4:].decode("latin-1"),
)
def test_descriptive_chunks_that_are_damaged(damaged):
    np.testing.assert_array_equal(decode(png(damaged)), PIXELS)


def test_what_pixels_need_is_kept():
    encoded = png(text(10, b"tEXt"), text(10, b"iCCP"), chunk(b"abCd", b"private"))
    kinds = [part[4:8] for part in chunks(without_metadata(encoded))]
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]
    assert without_metadata(encoded + b"after the end") == without_metadata(encoded)
    plain = png()
    assert without_metadata(plain) == plain
    assert without_metadata(b"no PNG") == b"no PNG"


def orientation_in_exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()[6:]


def raw_profile():
    profile = b"Exif\0\0" + orientation_in_exif()
    return b"\nexif\n%8d\n%s\n" % (len(profile), profile.hex().encode())


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("at", [1, -1])
@pytest.mark.parametrize(
    "content",
    [
        chunk(b"eXIf", orientation_in_exif()),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_profile())),
        chunk(b"tEXt", b"Raw profile type exif\0" + raw_profile()),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
    ],
    ids=["eXIf", "zTXt", "tEXt", "iTXt", "iTXt compressed"],
)
def test_orientation_is_kept(content, at):
    encoded = png(text(2 * MEGABYTE), content, at=at)
    np.testing.assert_array_equal(decode(encoded), np.rot90(PIXELS, -1))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_truncated(share, generator):
    pixels = generator.integers(0, 256, (30, 30, 3), np.uint8)
    encoded = png(text(2 * MEGABYTE), pixels=pixels)
    with pytest.raises(ImageError, match=r"here\.png: "):
        decode(encoded[: int(share * len(encoded))])


def test_the_default_image_of_an_animation():
    frames = [Image.new("RGB", (4, 3), (shade, 0, 0)) for shade in (200, 100, 0)]
    for default_image in (False, True):
        file = io.BytesIO()
        frames[0].save(
            file,
            "PNG",
            save_all=True,
            append_images=frames[1:],
            default_image=default_image,
        )
        np.testing.assert_array_equal(decode(file.getvalue()), frames[0])


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_of_every_depth(bits, interlaced):
    values = np.random.default_rng(bits).integers(0, 2**bits, (8, 8))
    rows = [
        "".join(format(value, f"0{bits}b") for value in row) for row in values.tolist()
    ]
    lines = [int(row, 2).to_bytes(bits, "big") for row in rows]
    if interlaced:
        # Adam7's passes of 8 x 8 pixels: start and step, down and across.
        passes = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4)]
        passes += [(2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
        lines = []
        for top, down, left, across in passes:
            for row in values[top::down, left::across].tolist():
                digits = "".join(format(value, f"0{bits}b") for value in row)
                digits += "0" * (-len(digits) % 8)
                lines.append(int(digits, 2).to_bytes(len(digits) // 8, "big"))
    header = struct.pack(">IIBBBBB", 8, 8, bits, 0, 0, 0, int(interlaced))
    encoded = b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines))),
            chunk(b"IEND", b""),
        ]
    )
    most = 2**bits - 1
    expected = (2 * values * 255 + most) // (2 * most)
    found = decode_image(encoded, origin="", channels=1)[..., 0]
    np.testing.assert_array_equal(found, expected)
