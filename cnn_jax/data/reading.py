"""Examples of a source to arrays: the work of a stream's threads or worker processes.

An example's error is passed on as data, in the place of its pixels: an exception may
not be picklable, and the consumer counts the bad images before it decides whether to
raise.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cnn_jax.data.host.decode import ImageError, open_image, to_array
from cnn_jax.data.host.policies import Transform
from cnn_jax.data.source import Example, Source
from cnn_jax.geometry import is_integer


class BadImage(NamedTuple):
    """An image that could not be read.

    Attributes:
      origin: Which one.
      reason: What is wrong with it.
    """

    origin: str
    reason: str


class LabelError(ValueError):
    """A label that none of the classes has.

    Attributes:
      origin: Which example's.
    """

    def __init__(self, origin: str, reason: str):
        super().__init__(f"{origin}: {reason}.")
        self.origin: str = origin
        self.reason: str = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.origin, self.reason)


class Element(NamedTuple):
    """One example after decoding and transformation.

    Attributes:
      image: uint8 of shape `(height, width, channels)`, or None if there is none.
      label: The class.
      index: The example's number in the source; -1 for padding.
      mask: 1.0 for an example that counts.
      bad: Numbers of the images that could not be read before this one.
      error: What ends the run, if anything does.
    """

    image: np.ndarray | None
    label: int
    index: int  # type: ignore[assignment]  # hides what tuples have
    mask: float
    bad: tuple[tuple[int, BadImage], ...] = ()
    error: Exception | None = None


@dataclasses.dataclass(frozen=True)
class Read:
    """Reads, decodes and transforms an example, or the next readable one."""

    source: Source
    transform: Transform
    max_bad_images: int

    def __call__(self, number: int, generator: np.random.Generator) -> Element:
        """Returns the first readable example from `number` on, cyclically."""
        bad = []
        # One more than allowed ends the run, so there is no need to look further.
        for offset in range(min(len(self.source), self.max_bad_images + 1)):
            index = (number + offset) % len(self.source)
            try:
                image, label = _read_example(
                    self.source, index, self.transform, generator
                )
            except (ImageError, OSError) as error:
                bad.append((index, _bad_image(self.source, index, error)))
            except Exception as error:
                error = _portable(error, self.source, index)
                return Element(None, 0, index, 0.0, tuple(bad), error)
            else:
                return Element(image, label, index, 1.0, tuple(bad))
        return Element(None, 0, number, 0.0, tuple(bad))


@dataclasses.dataclass(frozen=True)
class ReadOrMask:
    """Reads an example, or leaves a gap that is masked."""

    source: Source
    transform: Transform

    def __call__(self, index: int, generator: np.random.Generator) -> Element:
        """Returns the example, or a black image whose mask is 0."""
        if index >= len(self.source):
            return Element(self._black(generator), 0, -1, 0.0)
        try:
            image, label = _read_example(self.source, index, self.transform, generator)
        except (ImageError, OSError) as error:
            bad = ((index, _bad_image(self.source, index, error)),)
            return Element(self._black(generator), 0, index, 0.0, bad)
        except Exception as error:
            error = _portable(error, self.source, index)
            return Element(None, 0, index, 0.0, (), error)
        return Element(image, label, index, 1.0)

    def _black(self, generator: np.random.Generator) -> np.ndarray:
        """Returns a black image of the transform's output size."""
        mode = "L" if self.source.features.image_shape[2] == 1 else "RGB"
        height, width = (side or 64 for side in self.source.features.image_shape[:2])
        black = Image.new(mode, (width, height))
        return np.zeros_like(to_array(self.transform(black, generator)))


def _read_example(
    source: Source, index: int, transform: Transform, generator: np.random.Generator
) -> tuple[np.ndarray, int]:
    example = source[index]
    if not is_integer(example.label):
        raise LabelError(
            example.origin,
            f"got the label {example.label!r}, expected an integer",
        )
    if not 0 <= example.label < len(source.class_names):
        raise LabelError(
            example.origin,
            f"got the label {example.label}, expected 0 to "
            f"{len(source.class_names) - 1}",
        )
    image = image_of(example, source.features.image_shape[2])
    return to_array(transform(image, generator)), int(example.label)


def image_of(example: Example, channels: int) -> Image.Image:
    """Returns an example's image, decoded if need be."""
    if isinstance(example.image, bytes):
        return open_image(example.image, origin=example.origin, channels=channels)
    pixels = example.image
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def _bad_image(source: Source, index: int, error: Exception) -> BadImage:
    if isinstance(error, ImageError):
        return BadImage(error.origin, error.reason)
    return BadImage(f"{source.name} {source.split}[{index}]", str(error))


def _portable(error: Exception, source: Source, index: int) -> Exception:
    """Returns an error if it can be pickled, else a `RuntimeError` with its text.

    A worker's queue drops what cannot be pickled without an error, and the consumer
    would block forever.
    """
    in_worker = multiprocessing.parent_process() is not None
    found = traceback.format_exception(error) if in_worker else []
    if in_worker:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"While reading {source.name} {source.split}[{index}].")
    if found:
        error.add_note("In a worker process:\n" + "".join(found))
    return error


def collate(elements: Sequence[Element]) -> dict[str, Any]:
    """Makes a batch of elements, or passes on why there is none."""
    bad = tuple(each for element in elements for each in element.bad)
    errors = [element.error for element in elements if element.error is not None]
    images = [element.image for element in elements if element.image is not None]
    if errors or len(images) < len(elements):
        return {"bad": bad, "error": errors[0] if errors else None}
    return {
        "bad": bad,
        "image": np.stack(images),
        "label": np.asarray([element.label for element in elements], np.int32),
        "index": np.asarray([element.index for element in elements], np.int64),
        "mask": np.asarray([element.mask for element in elements], np.float32),
    }
