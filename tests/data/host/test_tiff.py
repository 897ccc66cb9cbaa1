"""TIFFs of every kind of sample, written byte by byte: decoded exactly, or refused."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from cnn_jax.data import ImageError
from cnn_jax.data.host import decode_image

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, SEPARATED, LAB = 0, 1, 2, 3, 5, 8
INTEGERS = ("u1", "i1", "u2", "i2", "u4", "i4")


def write_tiff(
    strips,
    size,
    *,
    bits,
    photometric,
    order="<",
    sample_format=1,
    deflate=False,
    **tags,
):
    """Returns a TIFF of one strip of bytes for each plane.

    Args:
      strips: The samples of each plane, in the file's byte order.
      size: `(height, width)`.
      bits: Of each sample.
      photometric: The tag of what the samples mean; None leaves it out.
      order: `"<"` or `">"`.
      sample_format: 1 unsigned, 2 signed, 3 floating-point; None leaves it out.
      deflate: Whether to compress the strips.
      **tags: More of them, `t266=(2,)` say; always SHORT.
    """
    strips = [zlib.compress(strip) if deflate else bytes(strip) for strip in strips]
    shorts = {
        256: (size[1],),
        257: (size[0],),
        258: bits,
        259: (8 if deflate else 1,),
        277: (len(bits),),
        278: (size[0],),
        **{int(name[1:]): value for name, value in tags.items()},
    }
    if photometric is not None:
        shorts[262] = (photometric,)
    if sample_format is not None:
        shorts[339] = (sample_format,) * len(bits)
    mark = {"<": b"II", ">": b"MM"}[order]
    file = bytearray(struct.pack(order + "2sHI", mark, 42, 0))

    def append(content):
        file.extend(b"\0" * (len(file) % 2))
        start = len(file)
        file.extend(content)
        return start

    offsets = [append(strip) for strip in strips]
    entries = [
        (number, 3, values, struct.pack(f"{order}{len(values)}H", *values))
        for number, values in shorts.items()
    ]
    for number, values in ((273, offsets), (279, [len(strip) for strip in strips])):
        content = struct.pack(f"{order}{len(values)}I", *values)
        entries.append((number, 4, values, content))
    directory = struct.pack(order + "H", len(entries))
    for number, kind, values, content in sorted(entries):
        if len(content) > 4:
            content = struct.pack(order + "I", append(content))
        head = struct.pack(order + "HHI", number, kind, len(values))
        directory += head + content.ljust(4, b"\0")
    struct.pack_into(order + "I", file, 4, append(directory + bytes(4)))
    return bytes(file)


def grey_tiff(values, kind, *, order="<", photometric=BLACK_IS_ZERO, **options):
    """Returns a TIFF of one sample a pixel, of the type `"u2"` say."""
    formats = {"u": 1, "i": 2, "f": 3}
    return write_tiff(
        [values.astype(order + kind).tobytes()],
        values.shape,
        bits=(8 * int(kind[1]),),
        photometric=photometric,
        order=order,
        **{"sample_format": formats[kind[0]], **options},
    )


def pack(values, bits):
    """Returns samples of few bits, rows padded to whole bytes, the high bit first."""
    rows = [
        "".join(format(value, f"0{bits}b") for value in row) for row in values.tolist()
    ]
    padded = [row + "0" * (-len(row) % 8) for row in rows]
    joined = "".join(padded)
    return int(joined, 2).to_bytes(len(joined) // 8, "big")


def scaled(values, maximum):
    """Maps 0 to `maximum` onto 0 to 255, rounded, in integers."""
    values = np.asarray(values, np.int64)
    return (2 * values * 255 + maximum) // (2 * maximum)


def decode_grey(encoded):
    pixels = decode_image(encoded, origin="here.tif", channels=1)
    colours = decode_image(encoded, origin="here.tif")
    np.testing.assert_array_equal(colours, np.repeat(pixels, 3, axis=-1))
    return pixels[..., 0]


def assert_refused(encoded, reason):
    with pytest.raises(ImageError, match=reason) as error:
        decode_image(encoded, origin="here.tif")
    assert str(error.value).startswith("here.tif: ")


@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", INTEGERS)
def test_integers_of_every_width(kind, order, deflate, photometric):
    options = {"order": order, "deflate": deflate, "photometric": photometric}
    inverted = photometric == WHITE_IS_ZERO
    most = 127 if kind == "i1" else 255
    small = np.linspace(0, most, 15, dtype=np.int64).reshape(3, 5)
    expected = scaled(small, 65535) if kind == "u2" else small
    pixels = decode_grey(grey_tiff(small, kind, **options))
    np.testing.assert_array_equal(pixels, 255 - expected if inverted else expected)
    if kind[1] != "1":
        most = 32767 if kind == "i2" else 65535
        large = np.linspace(0, most, 15, dtype=np.int64).reshape(3, 5)
        expected = scaled(large, 65535)
        pixels = decode_grey(grey_tiff(large, kind, **options))
        np.testing.assert_array_equal(pixels, 255 - expected if inverted else expected)


@pytest.mark.parametrize(
    ("low", "high", "kinds"),
    [
        (-1, 255, ("i2", "i4")),
        (-128, 127, ("i1", "i2", "i4")),
        (0, 65536, ("i4", "u4")),
        (0, 2**31 - 1, ("i4", "u4")),
        (7, 2**32 - 1, ("u4",)),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_integers_of_unknown_range(low, high, kinds, order):
    values = np.array([[low, 9], [8, high]], np.int64)
    for kind in kinds:
        assert_refused(
            grey_tiff(values, kind, order=order),
            f"got values from {low:,} to {high:,}, of which the range is unknown; exp",
        )


@pytest.mark.parametrize("order", ["<", ">"])
def test_unsigned_is_what_a_file_is_that_does_not_say(order):
    values = np.array([[0, 100, 65535]])
    for kind in ("u2", "u4"):
        encoded = grey_tiff(values, kind, order=order, sample_format=None)
        np.testing.assert_array_equal(decode_grey(encoded), scaled(values, 65535))


def test_a_file_without_photometric_interpretation_is_a_fax():
    values = np.array([[0, 100, 255]])
    for kind in ("u1", "u4"):
        encoded = grey_tiff(values, kind, photometric=None)
        np.testing.assert_array_equal(decode_grey(encoded), 255 - values)


@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 12])
def test_samples_of_few_bits(bits, deflate, planar, photometric):
    values = np.random.default_rng(bits).integers(0, 2**bits, (5, 14))
    values[0, :2] = 0, 2**bits - 1
    expected = scaled(values, 2**bits - 1)
    encoded = write_tiff(
        [pack(values, bits)],
        values.shape,
        bits=(bits,),
        photometric=photometric,
        deflate=deflate,
        t284=(planar,),
    )
    np.testing.assert_array_equal(
        decode_grey(encoded), 255 - expected if photometric == 0 else expected
    )


@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
@pytest.mark.parametrize("compression", [None, "group3", "group4", "packbits"])
def test_faxes(compression, photometric):
    ink = np.random.default_rng(0).integers(0, 2, (9, 21)).astype(bool)
    file = io.BytesIO()
    # What is stored does not depend on the tag, only what it means.
    Image.fromarray(ink).save(
        file, "TIFF", compression=compression, tiffinfo={262: photometric}
    )
    with Image.open(file) as image:
        assert image.tag_v2[262] == photometric
        pillow = np.asarray(image)
    np.testing.assert_array_equal(decode_grey(file.getvalue()), pillow * np.uint8(255))


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_floating_point_samples_are_refused(kind, order):
    values = np.linspace(0, 1, 6).reshape(2, 3)
    assert_refused(
        grey_tiff(values, kind, order=order), "floating-point|sample format 3"
    )


def test_what_is_not_read_is_said():
    assert_refused(
        grey_tiff(np.zeros((2, 2)), "u8"),
        r"samples of \(64,\) bits, of the sample format 1 and photometric interp.* 1 ",
    )
    encoded = write_tiff([bytes(16)], (2, 2), bits=(16, 16), photometric=1, t338=(2,))
    assert_refused(encoded, r"samples of \(16, 16\) bits")


@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
def test_grey_with_transparency(photometric):
    values = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    samples = np.stack([values, np.full_like(values, 7)], -1)
    encoded = write_tiff(
        [samples.tobytes()],
        values.shape,
        bits=(8, 8),
        photometric=photometric,
        t338=(2,),
    )
    expected = 255 - values if photometric == WHITE_IS_ZERO else values
    np.testing.assert_array_equal(decode_grey(encoded), expected)


def test_grey_times_transparency():
    samples = np.array([[[50, 128], [128, 128], [9, 255]]], np.uint8)
    encoded = write_tiff(
        [samples.tobytes()], (1, 3), bits=(8, 8), photometric=1, t338=(1,)
    )
    expected = samples[..., 0] * 255.0 / samples[..., 1]
    assert np.abs(decode_grey(encoded) - expected).max() <= 1


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_sixteen_bits(channels, planar, order, deflate):
    values = np.random.default_rng(0).integers(0, 65536, (3, 5, channels))
    stored = values.astype(order + "u2")
    strips = [stored.tobytes()]
    if planar == 2:
        strips = [stored[..., band].tobytes() for band in range(channels)]
    encoded = write_tiff(
        strips,
        (3, 5),
        bits=(16,) * channels,
        photometric=RGB,
        order=order,
        deflate=deflate,
        t284=(planar,),
        **({"t338": (2,)} if channels == 4 else {}),
    )
    pixels = decode_image(encoded, origin="here.tif")
    np.testing.assert_array_equal(pixels, values[..., :3] >> 8)


@pytest.mark.parametrize("unit", [1, 257])
@pytest.mark.parametrize("bits", [4, 8])
def test_palettes(bits, unit):
    """Also with colours of 8 bits, which some programs write in place of 16."""
    colours = np.random.default_rng(0).integers(0, 256, (2**bits, 3))
    values = np.arange(2**bits).reshape(2, -1)
    encoded = write_tiff(
        [pack(values, bits)],
        values.shape,
        bits=(bits,),
        photometric=PALETTE,
        t320=tuple((unit * colours.T).ravel().tolist()),
    )
    pixels = decode_image(encoded, origin="here.tif")
    np.testing.assert_array_equal(pixels, colours[values])


def test_inks():
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 255, 0], [0, 0, 0, 255]]])
    expected = [[[255, 255, 255], [0, 255, 255], [255, 0, 0], [0, 0, 0]]]
    for kind, unit in (("<u1", 1), ("<u2", 257), (">u2", 257)):
        encoded = write_tiff(
            [(unit * inks).astype(kind).tobytes()],
            (1, 4),
            bits=(8 * int(kind[2]),) * 4,
            photometric=SEPARATED,
            order=kind[0],
        )
        np.testing.assert_array_equal(
            decode_image(encoded, origin="here.tif"), expected
        )
    planes = [(257 * inks[..., band]).astype("<u2").tobytes() for band in range(4)]
    encoded = write_tiff(planes, (1, 4), bits=(16,) * 4, photometric=5, t284=(2,))
    assert_refused(encoded, "CMYK planes of 16 bits")


def test_lightness_and_two_colours():
    """Grey by the definition of L*, and a blue that is one (b* is -80)."""
    lightness = np.array([0, 50, 128, 200, 255])
    lab = np.zeros((1, 6, 3), np.int8)
    lab[0, :5, 0] = lightness.astype(np.uint8).view(np.int8)
    lab[0, 5] = 80, 0, -80
    encoded = write_tiff([lab.tobytes()], (1, 6), bits=(8,) * 3, photometric=LAB)
    pixels = decode_image(encoded, origin="here.tif").astype(float)
    star = lightness / 255 * 100
    linear = np.where(star > 8, ((star + 16) / 116) ** 3, star / 903.3)
    srgb = np.where(
        linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear
    )
    assert np.abs(pixels[0, :5] - 255 * srgb[:, None]).max() < 2.5
    assert pixels[0, 5, 2] > pixels[0, 5, :2].max() + 60
    assert decode_image(encoded, origin="", channels=1).shape == (1, 6, 1)
    planes = [lab[..., band].tobytes() for band in range(3)]
    encoded = write_tiff(planes, (1, 6), bits=(8,) * 3, photometric=LAB, t284=(2,))
    assert_refused(encoded, "LAB planes of 8 bits")


@pytest.mark.parametrize("kind", ["u1", "u2", "i4"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation(kind, order):
    upright = np.arange(15, dtype=np.uint8).reshape(3, 5) * 17
    unit = 257 if kind == "u2" else 1
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright, -1),
    }
    for orientation, values in stored.items():
        for photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO):
            samples = values if photometric == BLACK_IS_ZERO else 255 - values
            encoded = grey_tiff(
                samples.astype(np.int64) * unit,
                kind,
                order=order,
                photometric=photometric,
                t274=(orientation,),
            )
            np.testing.assert_array_equal(decode_grey(encoded), upright)


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B"])
@pytest.mark.parametrize("compression", [None, "tiff_deflate", "tiff_lzw"])
def test_what_pillow_writes(mode, compression):
    values = np.linspace(0, 65535, 64, dtype=np.int64).reshape(8, 8)
    for most in (65535, 255):
        stored = values * most // 65535
        dtype = {"I": "<i4", "I;16": "<u2", "I;16B": ">u2"}[mode]
        image = Image.frombytes(
            mode, (8, 8), stored.astype(dtype).tobytes(), "raw", mode
        )
        file = io.BytesIO()
        image.save(file, "TIFF", compression=compression)
        expected = stored if (mode, most) == ("I", 255) else scaled(stored, 65535)
        np.testing.assert_array_equal(decode_grey(file.getvalue()), expected)


def test_first_page_and_64_bit_offsets():
    pages = [Image.new("I", (4, 3), shade) for shade in (200, 100_000, 7)]
    for options in ({}, {"big_tiff": True}):
        file = io.BytesIO()
        pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:], **options)
        np.testing.assert_array_equal(
            decode_grey(file.getvalue()), np.full((3, 4), 200)
        )


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated(share, generator):
    values = generator.integers(0, 65536, (40, 40))
    for kind, deflate in itertools.product(("u2", "i4"), (False, True)):
        encoded = grey_tiff(values, kind, deflate=deflate)
        assert_refused(encoded[: int(share * len(encoded))], "cannot be decoded")


def test_too_many_pixels():
    encoded = bytearray(grey_tiff(np.zeros((2, 2)), "i4"))
    width = encoded.index(struct.pack("<HHI", 256, 3, 1)) + 8
    struct.pack_into("<H", encoded, width, 60_000)
    struct.pack_into("<H", encoded, width + 12, 60_000)
    assert_refused(bytes(encoded), "got 60000 x 60000 pixels, expected no more than")


def test_a_colour_profile_does_not_matter():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.new("RGB", (3, 2), (9, 99, 199))
    file = io.BytesIO()
    image.save(file, "TIFF", icc_profile=profile)
    np.testing.assert_array_equal(decode_image(file.getvalue(), origin=""), image)
