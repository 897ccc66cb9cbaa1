"""Every kind of file that a folder of photographs may hold, decoded or refused."""

import contextlib
import io
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from helpers.quick import nightly_except
from PIL import Image, ImageCms

from cnn_jax.data import ImageError
from cnn_jax.data.host import bands, decode_image, open_image
from cnn_jax.data.host import decode as decode_module
from cnn_jax.data.host.decode import FORMATS, SUFFIXES, read_image_file

ROOT = pathlib.Path(__file__).parents[3]


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photograph(height=20, width=30):
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows * 7, columns * 5, rows + columns], -1).astype(np.uint8)
    return Image.fromarray(pixels)


def decode(encoded, **options):
    return decode_image(encoded, origin="here.jpg", **options)


def assert_refused(encoded, reason, **options):
    with pytest.raises(ImageError, match=reason) as error:
        decode(encoded, **options)
    assert str(error.value).startswith("here.jpg: ")


def test_pixels_come_out_as_they_went_in():
    image = photograph()
    pixels = decode(encode(image))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(image))


def test_the_content_decides_not_the_name():
    # `origin` ends in .jpg and the bytes are a PNG's.
    assert decode(encode(photograph())).shape == (20, 30, 3)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_truncated(kind, share):
    encoded = encode(photograph(64, 64), kind)
    assert_refused(
        encoded[: int(len(encoded) * share)], "cannot be decoded|begins with"
    )


def test_zero_bytes():
    assert_refused(b"", "the file is empty")


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"\x00" * 500])
def test_no_image(content):
    assert_refused(content, "no image format that is read here; expected one of JPEG,")


def test_no_program_is_run_to_decode_a_file(monkeypatch):
    def run(*arguments, **options):
        raise AssertionError("A program was to be run.")

    monkeypatch.setattr(subprocess, "Popen", run)
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage"
    assert_refused(page, "no image format")


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "SGI", "DIB", "EPS"])
def test_formats_that_are_not_read(kind):
    assert_refused(encode(photograph(), kind), "no image format that is read here")


LOSSLESS = {
    "WEBP": {"lossless": True},
    # Of the codec, when it need not change the colours.
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "JPEG": {"quality": 100, "subsampling": 0},
}
CLOSE = {"AVIF": 3, "JPEG": 4, "GIF": 0}


def assert_shows(encoded, image, kind):
    difference = decode(encoded).astype(int) - np.asarray(image)
    assert np.abs(difference).max() <= CLOSE.get(kind, 0)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format(kind):
    image = photograph()
    if kind == "GIF":  # 256 colours
        image = image.quantize(256).convert("RGB")
    assert_shows(encode(image, kind, **LOSSLESS.get(kind, {})), image, kind)


def test_suffixes_are_those_of_the_formats():
    expected = [".jpg", ".jpe", ".jfif", ".png", ".tif", ".webp", ".gif", ".bmp"]
    expected += [".pgm", ".jp2"]
    assert set(expected) < set(SUFFIXES)
    assert not {".eps", ".ps", ".pdf", ".pfm", ".h5", ".ico", ".tga"} & set(SUFFIXES)
    for suffix in SUFFIXES:
        kind = Image.registered_extensions()[suffix]
        options = LOSSLESS.get("JPEG" if kind == "MPO" else kind, {})
        mode = {".pbm": "1", ".pgm": "L"}.get(suffix, "P" if kind == "GIF" else "RGB")
        image = photograph().convert(mode)
        file = io.BytesIO()
        image.save(file, kind, **options)
        assert_shows(
            file.getvalue(), image.convert("RGB"), "JPEG" if kind == "MPO" else kind
        )


@pytest.mark.parametrize("bits", [8, 24])
@pytest.mark.parametrize("top_down", [False, True])
def test_bitmaps_begin_with_the_last_row(bits, top_down):
    pixels = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3) * 5
    if bits == 8:
        pixels = np.repeat(pixels[..., :1], 3, axis=-1)
    rows = pixels[..., 0] if bits == 8 else pixels[..., ::-1].reshape(3, -1)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    palette = b"".join(bytes([k, k, k, 0]) for k in range(256)) if bits == 8 else b""
    start, size = 54 + len(palette), rows.size
    height = -3 if top_down else 3
    encoded = struct.pack("<2sIHHI", b"BM", start + size, 0, 0, start)
    encoded += struct.pack("<IiiHHIIiiII", 40, 5, height, 1, bits, 0, size, 0, 0, 0, 0)
    encoded += palette + (rows if top_down else rows[::-1]).tobytes()
    np.testing.assert_array_equal(decode(encoded), pixels)


def test_sixteen_bits_are_scaled_by_their_range_however_dark():
    """Pillow has them as 32 bits, of which TIFFs are read differently."""
    values = np.arange(200, dtype=np.uint16).reshape(10, 20)
    for most in (65535, 4095):
        header = f"P5 20 10 {most}\n".encode()
        pixels = decode(header + values.astype(">u2").tobytes())
        expected = (2 * values.astype(int) * 255 + most) // (2 * most)
        # Of other ranges than 65,535, Pillow rounds first to 16 bits.
        difference = np.abs(pixels[..., 0] - expected)
        assert difference.max() <= (0 if most == 65535 else 1)
    for kind in ("PNG", "JPEG2000"):
        pixels = decode(encode(Image.fromarray(values), kind))
        np.testing.assert_array_equal(pixels[..., 0], (values.astype(int) + 128) // 257)


def test_of_two_pictures_in_a_jpeg_the_first():
    first, second = photograph(), Image.new("RGB", (30, 20))
    encoded = encode(
        first, "MPO", save_all=True, append_images=[second], **LOSSLESS["JPEG"]
    )
    assert_shows(encoded, first, "JPEG")


def test_floating_point_pixels_have_no_known_range():
    image = Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))
    assert_refused(encode(image, "TIFF"), "floating-point")


@pytest.mark.parametrize("kind", FORMATS)
def test_flipped_bits_never_escape_as_another_error(kind, generator):
    encoded = np.frombuffer(encode(photograph(64, 64), kind), np.uint8)
    header = generator.integers(0, min(400, len(encoded)), 40)
    for position in [*header, *generator.integers(0, len(encoded), 60)]:
        damaged = encoded.copy()
        damaged[position] ^= 1 << generator.integers(8)
        with contextlib.suppress(ImageError):
            assert decode(damaged.tobytes()).shape[2] == 3


def test_cmyk_shows_the_colours():
    red = Image.new("RGB", (16, 16), (255, 0, 0)).convert("CMYK")
    pixels = decode(encode(red, "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() < 12


def test_inverted_cmyk_as_adobe_writes_it():
    ink = Image.new("RGB", (16, 16), (0, 0, 255)).convert("CMYK")
    encoded = encode(ink, "JPEG", quality=95)
    # Pillow writes CMYK JPEGs as Adobe does: inverted, and marked so.
    assert b"Adobe" in encoded
    assert np.abs(decode(encoded).astype(int) - (0, 0, 255)).max() < 12


def test_grayscale_becomes_colour_and_colour_grayscale():
    gray = photograph().convert("L")
    pixels = decode(encode(gray))
    np.testing.assert_array_equal(pixels, np.repeat(np.asarray(gray)[..., None], 3, -1))
    np.testing.assert_array_equal(decode(encode(gray), channels=1)[..., 0], gray)
    colour = decode(encode(photograph()), channels=1)
    np.testing.assert_array_equal(colour[..., 0], np.asarray(photograph().convert("L")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_dropped(mode):
    image = photograph().convert(mode)
    image.putalpha(7)
    expected = photograph() if mode == "RGBA" else photograph().convert("L")
    np.testing.assert_array_equal(decode(encode(image)), expected.convert("RGB"))


def test_a_palette_with_a_transparent_entry():
    image = photograph().convert("P")
    pixels = decode(encode(image, transparency=b"\x00" * 10))
    np.testing.assert_array_equal(pixels, image.convert("RGB"))


def test_one_bit_per_pixel():
    image = photograph().convert("1")
    np.testing.assert_array_equal(decode(encode(image)), image.convert("RGB"))


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    pixels = decode(encode(Image.fromarray(values)))
    np.testing.assert_array_equal(pixels[..., 0], np.round(values / 257))
    assert pixels.max() == 255
    assert len(np.unique(pixels)) == 64


@pytest.mark.parametrize("kind", [k for k in FORMATS if k in ("PNG", *LOSSLESS)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_carried_out(orientation, kind):
    upright = photograph()
    # What a camera stores so that a viewer that obeys EXIF shows `upright`.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation](np.asarray(upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    encoded = encode(image, kind, exif=exif, **LOSSLESS.get(kind, {}))
    assert_shows(encoded, upright, kind)


def test_damaged_exif_does_not_matter():
    damaged = encode(
        photograph(), exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff" + b"\xff" * 9
    )
    np.testing.assert_array_equal(decode(damaged), photograph())


@pytest.mark.parametrize(
    "kind", [k for k in FORMATS if k in ("GIF", "PNG", "TIFF", "WEBP", "AVIF")]
)
def test_of_an_animation_the_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (200, 100, 0)]
    options = {"lossless": True} if kind == "WEBP" else {}
    encoded = encode(
        frames[0], kind, save_all=True, append_images=frames[1:], **options
    )
    assert np.abs(decode(encoded).astype(int) - (200, 0, 0)).max() < 4


@pytest.mark.parametrize("size", [(1, 1), (4000, 1), (1, 4000)])
@pytest.mark.parametrize("smallest_side", [None, 224])
def test_extreme_sizes(size, smallest_side):
    image = Image.new("RGB", size, (9, 8, 7))
    for kind in ("PNG", "JPEG"):
        pixels = decode(encode(image, kind), smallest_side=smallest_side)
        assert pixels.shape == (size[1], size[0], 3)


def png_of(width, height):
    """A PNG whose header declares more pixels than its few bytes hold."""

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", checksum)
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\x00" * 10_000)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    )


# Between Pillow's limit and twice that it warns, beyond it raises.
@pytest.mark.parametrize("side", [10_000, 30_000])
def test_a_decompression_bomb_is_refused_before_it_takes_memory(side):
    tracemalloc.start()
    assert_refused(png_of(side, side), "pixels")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


def short_exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description" * 9
    return encode(photograph(), "JPEG", exif=exif.tobytes()[:-40])


def unsound_animation():
    encoded, header = encode(photograph()), 33
    chunk = b"acTL" + struct.pack(">II", 0, 0)
    chunk = struct.pack(">I", 8) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return encoded[:header] + chunk + encoded[header:]


WARNED_OF = {
    "bomb": lambda: png_of(10_000, 10_000),
    "EXIF": short_exif,
    "animation": unsound_animation,
}


def test_warnings_stay_inside(tmp_path):
    for name, make in WARNED_OF.items():
        (tmp_path / name).write_bytes(make())
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            image = Image.open(io.BytesIO(make()))
            if name == "EXIF":
                image.getexif()
        assert found, "Pillow by itself does not warn either."
    # In a process of its own, since pytest sets filters that stand before ours.
    program = """
import pathlib, sys, warnings
from cnn_jax.data.host import ImageError, decode_image

for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        decode_image(path.read_bytes(), origin="")
        print(path.name, "decoded")
    except ImageError:
        print(path.name, "refused")
warnings.warn("of another")
"""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )
    assert done.stdout.splitlines() == [
        "EXIF decoded",
        "animation decoded",
        "bomb refused",
    ]
    assert "of another" in done.stderr
    assert "PIL" not in done.stderr


def test_another_thread_may_warn_while_one_decodes():
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", decode_module._WarningWhileDecoding)
        decode_module._this_thread.decodes = True
        try:
            warnings.warn("in this thread", stacklevel=1)
            thread = threading.Thread(
                target=lambda: warnings.warn("in another", stacklevel=1)
            )
            thread.start()
            thread.join()
        finally:
            decode_module._this_thread.decodes = False
    assert [str(each.message) for each in found] == ["in another"]


def test_the_limit_on_pixels_can_be_lowered():
    assert_refused(
        encode(photograph()),
        "got 30 x 20 pixels, expected no more than 599",
        max_pixels=599,
    )
    decode(encode(photograph()), max_pixels=600)


def test_jpegs_can_be_decoded_at_a_fraction_of_their_size():
    encoded = encode(photograph(600, 800), "JPEG")
    assert decode(encoded, smallest_side=140).shape == (150, 200, 3)
    assert decode(encoded, smallest_side=160).shape == (300, 400, 3)
    assert decode(encoded).shape == (600, 800, 3)


def test_a_colour_profile_does_not_matter():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(
        decode(encode(photograph(), icc_profile=profile)), photograph()
    )


def test_the_error_survives_the_way_out_of_a_process():
    error = pickle.loads(pickle.dumps(ImageError("a/b.jpg", "torn in two")))
    assert (error.origin, error.reason) == ("a/b.jpg", "torn in two")
    assert str(error) == "a/b.jpg: torn in two."


def test_threads_do_not_disturb_each_other():
    files = [encode(Image.new("RGB", (64, 64), (k, k, k)), "PNG") for k in range(8)]
    wrong = []

    def work(shade):
        for _ in range(50):
            image = open_image(files[shade], origin="")
            if image.getpixel((3, 3)) != (shade,) * 3:
                wrong.append(shade)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def grey(kind, size, generator):
    """Random grey of 16 bits in a mode of Pillow's, with both ends of the range."""
    pixels = generator.integers(0, 2**16, size).astype(kind)
    pixels[0, :2] = 0, 2**16 - 1
    return pixels


def whole(image, mode):
    """The conversion of a whole image at once."""
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.round(pixels / 257).clip(0, 255).astype(np.uint8))
    elif image.mode in ("P", "LA", "PA"):
        image = image.convert("RGBA")
    return np.asarray(image.convert(mode))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("most", [1, 40, 500])
def test_parts_of_an_image_are_converted_as_the_whole(
    monkeypatch, generator, channels, most
):
    monkeypatch.setattr(bands, "_PIXELS", most)
    colours = Image.fromarray(generator.integers(0, 256, (21, 34, 3), np.uint8))
    palette = colours.quantize(7)
    palette.info["transparency"] = 3
    images = [
        Image.fromarray(grey(np.uint16, (21, 34), generator)),
        Image.fromarray(grey(np.int32, (21, 34), generator)),
        *(colours.convert(mode) for mode in ("L", "1", "CMYK", "YCbCr", "HSV", "LA")),
        *(colours.convert("RGBA"), colours.convert("P"), palette),
    ]
    for image in images:
        mode = {1: "L", 3: "RGB"}[channels]
        found = decode_module.to_array(decode_module._to_mode(image, mode))
        expected = whole(image, mode).reshape(21, 34, channels)
        np.testing.assert_array_equal(found, expected, err_msg=image.mode)


def test_grey_of_sixteen_bits_takes_no_more_memory_than_colours():
    side = 3000
    encoded = encode(Image.fromarray(np.full((side, side), 1234, np.uint16)))
    tracemalloc.start()
    pixels = decode(encoded)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.all(pixels == 5)
    # The result is 3 bytes a pixel, and 8-byte numbers are for a part at a time.
    assert peak < 4 * side**2 + 40_000_000


def test_wide_integers_of_a_tiff_take_no_more_memory_either():
    side = 3000
    encoded = encode(Image.fromarray(np.full((side, side), 1234, np.int32)), "TIFF")
    tracemalloc.start()
    decode(encoded)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * side**2 + 40_000_000


PEAK = """
import resource, sys
from cnn_jax.data.host import decode_image

encoded = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(decode_image(encoded, origin="large").shape)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
@pytest.mark.parametrize("mode", nightly_except(["RGBA"], ["I;16", "LA", "P", "RGBA"]))
def test_the_largest_image_takes_less_than_a_gigabyte(tmp_path, mode):
    side = 9459
    path = tmp_path / "large.png"
    if mode == "I;16":
        Image.fromarray(np.full((side, side), 1234, np.uint16)).save(path)
    else:
        Image.new(mode, (side, side)).save(path)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, path],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    shape, peak = done.stdout.splitlines()
    assert shape == f"({side}, {side}, 3)"
    assert int(peak) < 2**30


def test_decoders_that_hold_copies_of_an_image_get_smaller_ones(monkeypatch):
    encoded = {kind: encode(photograph(), kind) for kind in FORMATS}
    encoded["JPEG"] = encode(photograph().convert("CMYK"), "JPEG", progressive=True)
    monkeypatch.setattr(decode_module, "_MEMORY", 6000)  # of 600 pixels
    for kind in {"WEBP", "JPEG2000", "JPEG"} & set(FORMATS):
        assert_refused(encoded.pop(kind), r"got 30 x 20 pixels, expected no more than ")
    for kind, content in encoded.items():
        assert decode(content).shape == (20, 30, 3), kind


def test_repeated_passes_over_a_jpeg_are_refused(monkeypatch):
    encoded = encode(photograph(), "JPEG", progressive=True)
    assert encoded.count(b"\xff\xda") > 5
    end = encoded.rindex(b"\xff\xd9")
    last = encoded[encoded.rindex(b"\xff\xda") : end]
    monkeypatch.setattr(decode_module, "_MOST_WORK", 100 * 600)
    assert decode(encoded).shape == (20, 30, 3)
    assert_refused(encoded[:end] + 100 * last + encoded[end:], "many more passes")


def tiff_of_strips(times):
    """A grey TIFF of 30 x 20 pixels whose strip, of half of them, is named so often."""
    values = {256: 30, 257: 20, 258: 8, 259: 1, 262: 1, 277: 1, 278: 10}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items()]
    end = 8 + 2 + 12 * 9 + 4
    pixels, offsets = end, end + 600
    counts = offsets + 4 * times
    entries += [struct.pack("<HHII", 273, 4, times, offsets)]
    entries += [struct.pack("<HHII", 279, 4, times, counts)]
    entries.sort()
    return (
        b"II*\0" + struct.pack("<IH", 8, 9) + b"".join(entries) + bytes(4 + 600)
        + times * struct.pack("<I", pixels) + times * struct.pack("<I", 300)
    )  # fmt: skip


def test_a_strip_that_a_tiff_names_many_times_is_refused(monkeypatch):
    monkeypatch.setattr(decode_module, "_MOST_WORK", 100 * 600)
    assert decode(tiff_of_strips(2)).shape == (20, 30, 3)
    assert_refused(tiff_of_strips(500), "many more passes")


def test_a_file_that_is_longer_than_any_image(monkeypatch, tmp_path):
    encoded = encode(photograph(), "BMP")
    monkeypatch.setattr(decode_module, "MAX_BYTES", len(encoded) - 1)
    assert_refused(encoded, r"got 1,\d+ bytes, expected no more than 1,")
    path = tmp_path / "image.bmp"
    path.write_bytes(encoded)
    with pytest.raises(ImageError, match=rf"^{path}: got 1,\d+ bytes or more, exp"):
        read_image_file(path)
