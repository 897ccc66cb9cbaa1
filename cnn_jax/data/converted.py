"""Images with another number of channels: arrays, and the examples of a source."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
from PIL import Image

from cnn_jax.data.source import Example, Features, Source, cached_property


def in_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Returns grey images repeated to so many channels, or grey ones of uint8 colour.

    Args:
      images: `(n, height, width, c)`, one channel or three.
      channels: Any number for grey images, 1 for colour, weighed as Pillow does.
    """
    if images.shape[3] == 1:
        return np.repeat(images, channels, axis=-1)
    greys = [np.asarray(Image.fromarray(pixels).convert("L")) for pixels in images]
    return np.stack(greys)[..., np.newaxis]


@dataclasses.dataclass(frozen=True, eq=False)
class Converted:
    """A source whose examples are decoded or repeated to another number of channels.

    Attributes:
      source: The examples.
      channels: The number.
    """

    source: Source
    channels: int

    @property
    def name(self) -> str:
        """The source's name."""
        return self.source.name

    @property
    def split(self) -> str:
        """The source's split."""
        return self.source.split

    @property
    def class_names(self) -> tuple[str, ...]:
        """The source's class names."""
        return self.source.class_names

    @property
    def features(self) -> Features:
        """Those of the source, but for the channels."""
        found = self.source.features
        return Features((*found.image_shape[:2], self.channels), found.encoded)

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 over the source's own and the number of channels."""
        text = f"{self.source.fingerprint} {self.channels}"
        return hashlib.sha256(text.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        if isinstance(example.image, bytes):  # who decodes it goes by `features`
            return example
        (pixels,) = in_channels(example.image[np.newaxis], self.channels)
        return example._replace(image=pixels)
