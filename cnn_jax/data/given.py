"""Conversion of a caller's data into the kinds of splits that runs read from."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, TypeGuard

import numpy as np

from cnn_jax.data.batches import Batches, first_image
from cnn_jax.data.dataset import Dataset
from cnn_jax.data.source import Source

Given = Source | Batches | tuple[Any, Any] | Iterable[Any]
"""A source, arrays `(images, labels)`, or an iterable of batches."""

_SOURCE = (
    *("name", "split", "class_names", "features", "fingerprint"),
    *("__len__", "__getitem__"),
)


def is_source(value: object) -> TypeGuard[Source]:
    """Returns whether something has all that `Source` asks for, by name."""
    # Without calling properties: a fingerprint reads the whole set.
    static = object()
    return not isinstance(value, type) and all(
        inspect.getattr_static(value, attribute, static) is not static
        or attribute in getattr(value, "__dict__", {})
        for attribute in _SOURCE
    )


def is_arrays(value: object) -> TypeGuard[tuple[Any, Any]]:
    """Returns whether something is a pair `(images, labels)` of arrays."""
    return (
        isinstance(value, tuple | list)
        and len(value) == 2
        and all(hasattr(each, "shape") and hasattr(each, "dtype") for each in value)
    )


def given_image(argument: str, value: Given) -> np.ndarray | None:
    """Returns an image of a split that has no class names; None for one that has.

    Args:
      argument: Which argument the value is, for errors.
      value: As for `as_split`.

    Raises:
      ValueError: If it is nothing to learn from.
    """
    if is_source(value) or isinstance(value, Batches):
        return None
    if is_arrays(value):
        images = np.asarray(value[0])
        return images[0] if images.ndim and len(images) else images
    return first_image(_as_iterable(argument, value), argument)


def as_split(
    argument: str, value: Given, class_names: tuple[str, ...]
) -> Source | Batches:
    """Returns a split to train on or evaluate.

    Args:
      argument: Which argument the value is: "train", "validation" or "test".
      value: A `Source` or `Batches`, which stay as they are; a pair of arrays, images
        `(n, height, width, channels)` (uint8, or floating-point as the model wants
        them) and integer labels `(n,)`; or an iterable as `Batches` takes it.
      class_names: For what has none.

    Raises:
      ValueError: If it is something else.
    """
    if is_source(value) or isinstance(value, Batches):
        return value
    if is_arrays(value):
        images, labels = (np.asarray(each) for each in value)
        return Dataset("arrays", argument, images, labels, class_names)
    batches = _as_iterable(argument, value)
    return Batches(batches, split=argument, class_names=class_names)


def _as_iterable(argument: str, value: Any) -> Iterable[Any]:
    if isinstance(value, str | bytes | type) or not isinstance(value, Iterable):
        found = (
            f"the class {value.__name__}"
            if isinstance(value, type)
            else (
                repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
            )
        )
        raise ValueError(
            f"{argument}: got {found}, expected (images, labels), a data.Source such "
            "as data.load_dataset returns, a Grain dataset, or an iterable of batches."
        )
    return value
