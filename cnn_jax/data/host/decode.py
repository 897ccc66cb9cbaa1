"""Image files to pixels, with Pillow: upright, 8 bits, one or three channels.

Whatever a folder of photographs holds comes out alike: CMYK, LAB, palettes,
transparency and samples of other than 8 bits are converted, a rotation noted in EXIF is
carried out, of an animation the first frame is taken. Colour profiles and gamma are not
applied, as in most loaders. What cannot be decoded is an `ImageError` that names the
file, and a file whose header declares more pixels than allowed is refused before any
are allocated.

Grey of 16 bits is scaled by its range and rounded; of colours of 16 bits, and of grey
with transparency, Pillow keeps the upper 8, at most 1 away from that. See
`TiffImage.to_eight_bits` for wider integers.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import threading
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from cnn_jax.data.host import png, tiff
from cnn_jax.data.host.bands import bands
from cnn_jax.files import FileError, read_bytes

MAX_PIXELS = 89_478_485
"""The largest image accepted: Pillow's own limit, a quarter of a gigabyte as RGB."""

MAX_BYTES = 3 * MAX_PIXELS + 2**20
"""The longest file: what such an image takes uncompressed, and a megabyte around it."""

_MEMORY = 10 * MAX_PIXELS
"""The most bytes that a decoder may take beside the file."""

_BYTES_PER_PIXEL = {"WEBP": 16, "JPEG2000": 24}
"""The memory of decoders that hold several copies of an image, as measured."""

_MOST_WORK = 100 * MAX_PIXELS
"""The most pixels that a file may have decoded, as often as it repeats each."""

_CODECS = {"WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}
"""Formats that Pillow can be built without, or is too old for; to its name of each."""


def _is_built_in(kind: str) -> bool:
    Image.init()
    return kind in Image.OPEN and (
        kind not in _CODECS or bool(features.check(_CODECS[kind]))
    )


_SAFE = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

FORMATS = tuple(filter(_is_built_in, _SAFE))
"""The formats that are decoded, whatever a file is called.

Pillow reads more. Left out is what it does not decode by itself (an EPS file is passed
to Ghostscript, a WMF to Windows), what holds several images or none (ICO, PSD, PDF),
and what does not begin with a signature (TGA, PCX), so that any file may pass for it.
"""

SUFFIXES = tuple(
    sorted(
        suffix
        for suffix, kind in Image.registered_extensions().items()
        # A JPEG from a camera may hold a second picture (MPO); a PFM is all floats.
        if kind in (*FORMATS, "MPO") and suffix != ".pfm"
    )
)
"""The suffixes of such files, in lower case."""

_this_thread = threading.local()


class _AnyWhileDecoding(type):
    def __subclasscheck__(cls, category: type) -> bool:
        return getattr(_this_thread, "decodes", False)


class _WarningWhileDecoding(Warning, metaclass=_AnyWhileDecoding):
    """Every category of warning, but only in a thread that is decoding.

    Pillow warns of what is here either an error or of no matter. Filters belong to the
    whole process, and `warnings.catch_warnings` in one thread undoes what others set.
    """


warnings.simplefilter("ignore", _WarningWhileDecoding)


class ImageError(ValueError):
    """An image that cannot be decoded.

    Attributes:
      origin: Which image: a path, or a dataset with the example's number.
      reason: What is wrong with it.
    """

    def __init__(self, origin: str, reason: str):
        super().__init__(f"{origin}: {reason}.")
        self.origin: str = origin
        self.reason: str = reason

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is otherwise rebuilt from its one message, in another process.
        return type(self), (self.origin, self.reason)


def read_image_file(path: str | os.PathLike[str]) -> bytes:
    """Returns an image file's content.

    Raises:
      ImageError: If it is no regular file, or has more than `MAX_BYTES`.
      OSError: If it cannot be read; it names the file.
    """
    try:
        return read_bytes(path, max_bytes=MAX_BYTES)
    except FileError as error:
        reason = str(error).removeprefix(f"{path}: ").removesuffix(".")
        raise ImageError(os.fspath(path), reason) from None


def open_image(
    encoded: bytes,
    *,
    origin: str,
    channels: int = 3,
    smallest_side: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Decodes an image file.

    Args:
      encoded: The file's bytes, in one of `FORMATS`; its name does not matter.
      origin: What an error calls it.
      channels: 3 for RGB, 1 for grayscale. Transparency is dropped, as torchvision's
        and most loaders do; the colour under a transparent pixel shows.
      smallest_side: If given, a JPEG may be decoded at half, a quarter or an eighth of
        its size, as long as both sides stay at least this long: several times faster.
      max_pixels: The most pixels the file may have.

    Returns:
      A Pillow image of mode `"RGB"` or `"L"`.

    Raises:
      ImageError: If the file is empty, truncated, damaged, in another format, or too
        large.
    """
    if not encoded:
        raise ImageError(origin, "the file is empty")
    if len(encoded) > MAX_BYTES:
        raise ImageError(
            origin,
            f"got {len(encoded):,} bytes, expected no more than {MAX_BYTES:,}",
        )
    _this_thread.decodes = True
    try:
        image = _open(encoded)
        most = min(max_pixels, _MEMORY // _bytes_per_pixel(image))
        if math.prod(image.size) > most:
            raise _too_large(origin, image.size, most)
        if _work(image, encoded) > _MOST_WORK:
            raise ImageError(
                origin, "got many more passes over the pixels than an image needs"
            )
        if smallest_side is not None:
            _draft(image, smallest_side)
        image.load()
        image = _upright(image)
        if isinstance(image, tiff.TiffImage):
            image = image.to_eight_bits()
        return _to_mode(image, {1: "L", 3: "RGB"}[channels])
    except ImageError:
        raise
    except UnidentifiedImageError:
        start = bytes(encoded[:8])
        raise ImageError(
            origin,
            f"got a file that begins with {start!r}, which is no image format that is "
            f"read here; expected one of {', '.join(FORMATS)}",
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(origin, f"too many pixels: {error}") from None
    # A damaged file makes decoders raise whatever they run into.
    except Exception as error:
        raise ImageError(origin, f"cannot be decoded: {error}") from error
    finally:
        _this_thread.decodes = False


def decode_image(
    encoded: bytes,
    *,
    origin: str,
    channels: int = 3,
    smallest_side: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Decodes an image file to uint8 of shape `(height, width, channels)`.

    Takes the arguments of `open_image` and raises what it raises.
    """
    image = open_image(
        encoded,
        origin=origin,
        channels=channels,
        smallest_side=smallest_side,
        max_pixels=max_pixels,
    )
    return to_array(image)


def image_size(encoded: bytes) -> tuple[int, int]:
    """Returns height and width of an image file, upright, without decoding it.

    Raises:
      Exception: Of many types, if it is no image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its size, which decoding bounds
        with _open(encoded) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return image.size if turned else image.size[::-1]


def to_array(image: Image.Image) -> np.ndarray:
    """Returns an image of mode `"RGB"` or `"L"` as `(height, width, channels)`."""
    pixels = np.empty((image.height, image.width, len(image.getbands())), np.uint8)
    for top, band in bands(image):  # Pillow copies what it exports twice
        pixels[top : top + band.height] = np.asarray(band).reshape(
            band.height, band.width, -1
        )
    return pixels


def _open(encoded: bytes) -> Image.Image:
    if encoded.startswith(tiff.PREFIXES):
        return tiff.TiffImage(io.BytesIO(encoded))
    return Image.open(io.BytesIO(png.without_metadata(encoded)), formats=FORMATS)


def _bytes_per_pixel(image: Image.Image) -> int:
    if image.format in ("JPEG", "MPO") and image.info.get("progressive"):
        # The coefficients of every channel, of 16 bits, and the pixels.
        return 2 * len(image.getbands()) + 4
    return _BYTES_PER_PIXEL.get(image.format or "", 1)


def _work(image: Image.Image, encoded: bytes) -> int:
    """Returns how many pixels are decoded, those counted again that are repeated.

    A pass over the coefficients of a progressive JPEG takes a few bytes; and a TIFF may
    name the same strip thousands of times.
    """
    if image.format in ("JPEG", "MPO"):
        return encoded.count(b"\xff\xda") * math.prod(image.size)
    tiles: list[Any] = getattr(image, "tile", [])
    return sum(
        (right - left) * (lower - upper)
        for left, upper, right, lower in (tile.extents for tile in tiles)
    )


def _too_large(origin: str, size: tuple[int, int], most: int) -> ImageError:
    return ImageError(
        origin, f"got {size[0]} x {size[1]} pixels, expected no more than {most:,}"
    )


def _draft(image: Image.Image, smallest_side: int) -> None:
    share = smallest_side / min(image.size)
    if share < 1:
        # Of formats other than JPEG it is ignored.
        width, height = image.size
        image.draft(None, (math.ceil(width * share), math.ceil(height * share)))


def _upright(image: Image.Image) -> Image.Image:
    # Damaged EXIF is ignored; the pixels are sound.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode == "F":
        raise ValueError("got floating-point pixels, of which the range is unknown")
    if image.mode.startswith("I"):
        return Image.fromarray(_scaled(image)).convert(mode)
    if image.mode in ("P", "LA", "PA"):
        # By way of RGBA, which keeps transparent entries of a palette.
        modes = ["RGBA", mode]
    elif image.mode == "La":  # grey times transparency, which converts to this alone
        modes = ["LA", mode]
    elif image.mode == "LAB":
        modes = ["RGB", mode]
    else:
        modes = [mode]
    return _convert(image, modes)


def _scaled(image: Image.Image) -> np.ndarray:
    """Returns grey of 16 bits as uint8."""
    # 16 bits whatever the mode, since TIFFs come here with 8; some of Pillow's
    # versions would clip all above 255.
    scaled = np.empty((image.height, image.width), np.uint8)
    for top, band in bands(image):
        pixels = np.asarray(band).astype(np.float64)
        scaled[top : top + band.height] = np.round(pixels / 257).clip(0, 255)
    return scaled


def _convert(image: Image.Image, modes: Sequence[str]) -> Image.Image:
    """Converts an image to one mode after the other."""
    converted = Image.new(modes[-1], image.size)
    for top, band in bands(image):
        for mode in modes:
            band = band.convert(mode)
        converted.paste(band, (0, top))
    return converted
