"""TIFF files whose samples are not plain bytes (Adobe's TIFF 6.0, 1992).

Pillow returns what is stored: samples of 12, 16 or 32 bits, signed or not, and in some
files white as 0. Their meaning is in the file's tags, which are read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageChops, TiffImagePlugin

from cnn_jax.data.host.bands import bands

PREFIXES = tuple(TiffImagePlugin.PREFIXES)
"""The first bytes of a TIFF: little- or big-endian, with offsets of 32 or 64 bits."""

_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR = 258, 262, 277, 284
_COLOR_MAP, _SAMPLE_FORMAT = 320, 339
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _LAB = 0, 1, 8
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3


class TiffImage(TiffImagePlugin.TiffImageFile):
    """A TIFF that is decoded to what its tags say.

    Raises:
      SyntaxError: If Pillow does not read such samples.
    """

    _white_is_zero: bool
    _bits: int
    _sample_format: int

    def _setup(self) -> None:
        # Pillow has no mode for some of these kinds of samples and decodes others
        # wrongly, so they are presented as a kind that it supports.
        tags = self.tag_v2
        self._bits = max(tags.get(_BITS, (1,)), default=1)
        self._sample_format = max(tags.get(_SAMPLE_FORMAT, (_UNSIGNED,)), default=1)
        # As Pillow, files without the tag are taken for faxes.
        photometric = tags.get(_PHOTOMETRIC, _WHITE_IS_ZERO)
        self._white_is_zero = photometric == _WHITE_IS_ZERO
        if self._white_is_zero:
            tags[_PHOTOMETRIC] = _BLACK_IS_ZERO
        if self._bits == 32 and self._sample_format == _UNSIGNED:
            tags[_SAMPLE_FORMAT] = (_SIGNED,)
        if tags.get(_SAMPLES, 1) == 1 and _PLANAR in tags:
            tags[_PLANAR] = 1
        colors = tags.get(_COLOR_MAP, ())
        if colors and max(colors) < 256:  # of 8 bits, against the specification
            tags[_COLOR_MAP] = tuple(257 * color for color in colors)
        try:
            super()._setup()
        except SyntaxError as error:
            if str(error) != "unknown pixel mode":
                raise
            raise SyntaxError(
                f"a TIFF with samples of {tags.get(_BITS, (1,))} bits, of the sample "
                f"format {self._sample_format} and photometric interpretation "
                f"{photometric} is not read here"
            ) from error
        if tags.get(_PLANAR, 1) == 2 and (
            photometric == _LAB or (self._bits == 16 and self.mode == "CMYK")
        ):
            raise SyntaxError(
                f"a TIFF with {self.mode} planes of {self._bits} bits is not read here"
            )
        self.tile[:] = [
            tile._replace(args=self._layout(tile.codec_name, tile.args))
            for tile in self.tile
        ]

    def _layout(self, codec: str, layout: Any) -> tuple[Any, ...]:
        """Returns the layout of a tile's samples, which Pillow gets wrong for some."""
        raw_mode, *others = layout
        if codec == "libtiff":
            # Pillow returns samples in the machine's byte order, whatever the file's.
            native = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
            raw_mode = native.get(raw_mode, raw_mode)
        elif self._bits == 16 and raw_mode in ("R", "G", "B", "A"):
            raw_mode += ";16L" if self.tag_v2.prefix == b"II" else ";16B"
        return (raw_mode, *others)

    def to_eight_bits(self) -> Image.Image:
        """Returns the decoded image with samples of 8 bits, black as 0.

        Samples of up to 16 unsigned bits are scaled by the range of their type, as
        scikit-image's `img_as_ubyte` does. A type of 32 bits, or a signed one, says
        nothing of the range of an image: arrays of labels and of measurements are
        written as they are in memory. Its values are taken for those of the narrowest
        of uint8 and uint16 that holds all of the file's, so that 0 to 255 stay and 0 to
        65,535 come out as they would from a file of 16 bits. (By the type's range, as
        `img_as_ubyte` has it, nearly all of both would be 0; Pillow, and torchvision
        with it, makes everything above 255 white.) In a set of which some files keep
        below 256 and others do not, write all of them with 8 or 16 bits.

        Raises:
          ValueError: If samples are floating-point, negative or beyond 65,535: their
            range is then unknown.
        """
        image: Image.Image = self
        if self.mode.startswith("I") or self._is_signed_byte:
            image = Image.fromarray(self._scaled())
        if not self._white_is_zero or image.mode not in ("1", "L", "LA"):
            return image
        luminance, *alpha = image.split()
        inverted = (ImageChops.invert(luminance), *alpha)
        return Image.merge(image.mode, inverted)

    @property
    def _is_signed_byte(self) -> bool:
        return self.mode == "L" and self._sample_format == _SIGNED and self._bits == 8

    def _scaled(self) -> np.ndarray:
        maximum = self._maximum()
        scaled = np.empty((self.height, self.width), np.uint8)
        for top, samples in self._samples():
            scaled[top : top + len(samples)] = np.round(samples * (255 / maximum))
        return scaled

    def _maximum(self) -> int:
        """Returns the sample that is white."""
        if self._sample_format == _UNSIGNED and self._bits <= 16:
            return 2**self._bits - 1
        ends = [(int(part.min()), int(part.max())) for _, part in self._samples()]
        low, high = min(ends)[0], max(end[1] for end in ends)
        if low < 0 or high > 65_535:
            raise ValueError(
                f"got values from {low:,} to {high:,}, of which the range is unknown; "
                "expected 0 to 255 or 0 to 65,535"
            )
        return 255 if high <= 255 else 65_535

    def _samples(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields `(first row, samples)` of the type that the tags say."""
        for top, band in bands(self):
            samples = np.asarray(band)
            if self._is_signed_byte:
                samples = samples.view(np.int8)
            elif self._sample_format == _UNSIGNED and self._bits > 16:
                samples = samples.view(np.uint32)
            yield top, samples
