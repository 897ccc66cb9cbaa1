"""Made-up images, for benchmarks and for trying a program out."""

from __future__ import annotations

import dataclasses
import hashlib
import re

import numpy as np

from cnn_jax.data.source import Example, Features
from cnn_jax.ranges import MAX_SIDE, shown

SIZES = {"train": 1280, "test": 256, "validation": 256}
"""The number of examples of each split."""

NUM_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """Noise whose mean brightness depends on the class, the same in every process.

    Args:
      name: `"synthetic:HEIGHTxWIDTHxCHANNELS"`, with 1 or 3 channels.
      split: A key of `SIZES`.

    Raises:
      ValueError: If the name or the split is not of that kind.
    """

    name: str
    split: str

    def __post_init__(self) -> None:
        match = re.fullmatch(r"synthetic:([1-9]\d{0,5})x([1-9]\d{0,5})x[13]", self.name)
        if not match or max(int(match[1]), int(match[2])) > MAX_SIDE:
            raise ValueError(
                f"dataset: got {shown(self.name)}, expected synthetic:HxWxC with 1 or "
                f"3 channels, synthetic:224x224x3 say, and sides of up to {MAX_SIDE:,}."
            )
        if self.split not in SIZES:
            raise ValueError(
                f"split: got {self.split!r}, expected one of {list(SIZES)}."
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Ten degrees of brightness."""
        return tuple(f"brightness {label}" for label in range(NUM_CLASSES))

    @property
    def features(self) -> Features:
        """Pixels of the size in the name."""
        return Features(self._image_shape, encoded=False)

    @property
    def _image_shape(self) -> tuple[int, int, int]:
        height, width, channels = map(int, self.name.split(":")[1].split("x"))
        return height, width, channels

    @property
    def fingerprint(self) -> str:
        """A sha256 over what decides every pixel: the name and the split."""
        return hashlib.sha256(f"{self.name} {self.split}".encode()).hexdigest()

    def __len__(self) -> int:
        return SIZES[self.split]

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            # Also what ends a loop over a source.
            raise IndexError(f"{self.name} {self.split}: got the index {index}.")
        label = index % NUM_CLASSES
        # Philox counts: example i is drawn without drawing those before it.
        stream = list(SIZES).index(self.split)
        random = np.random.Generator(np.random.Philox(key=[index, stream]))
        low = 20 * label
        pixels = random.integers(low, low + 60, self._image_shape, dtype=np.uint8)
        return Example(pixels, label, f"{self.name} {self.split}[{index}]")
