"""Data sets: whether they are there, readable and complete, before a run reads them."""

from __future__ import annotations

import pathlib
import warnings
from typing import Any

from cnn_jax.doctor.finding import (
    Finding,
    TookTooLongError,
    counted,
    fault,
    ok,
    warning,
    within,
)
from cnn_jax.files import is_local

NUM_EXAMPLES = 64
"""Examples of a split that are read and decoded, spread over it."""


def check_data_dir(data_dir: str, seconds: float) -> Finding:
    """Checks that a directory of prepared sets can be listed."""
    name = "data directory"
    try:
        return within(seconds, lambda: _list(name, data_dir))
    except TookTooLongError as error:
        return _hangs(name, data_dir, error)


def check_dataset(
    dataset: str, data_dir: str | None, split: str, seconds: float
) -> Finding:
    """Opens a split, and reads and decodes examples over all of it.

    Args:
      dataset: As `data.sources.open_source` takes it.
      data_dir: Likewise.
      split: Likewise.
      seconds: How long it may take.
    """
    name = f"data set {dataset}, {split}"
    try:
        return within(seconds, lambda: _read(name, dataset, data_dir, split))
    except TookTooLongError as error:
        return _hangs(name, dataset, error)


def _list(name: str, data_dir: str) -> Finding:
    from cnn_jax.data.sources.tfds import tfds_directory

    remedy = "Name the directory that holds a directory for each set."
    try:
        path = tfds_directory(data_dir)
        if not path.is_dir():
            return fault(name, f"{data_dir} is no directory.", remedy)
        names = sorted(each.name for each in path.iterdir() if each.is_dir())
    except ImportError as error:
        return fault(
            name,
            f"{data_dir} cannot be reached without {error.name or error}.",
            "Run `python -m pip install gcsfs` for gs://.",
        )
    except Exception as error:  # of the bucket's own library
        return fault(name, f"{data_dir} cannot be read: {error}", remedy)
    if not names:
        return warning(name, f"{data_dir} is empty.", "Run `cnn-jax prepare`.")
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ok(name, f"{data_dir} holds {', '.join(names[:8])}{more}.")


def _read(name: str, dataset: str, data_dir: str | None, split: str) -> Finding:
    from cnn_jax.data.sources import open_source

    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            source = open_source(dataset, split, data_dir=data_dir)
            count = len(source)
            numbers = _spread(count)
            broken = [number for number in numbers if not _is_read(source, number)]
    except Exception as error:  # of many types, of the libraries that read
        return fault(name, f"{error}", "Prepare or copy the set again.")
    left_out = [str(each.message) for each in said if each.category is UserWarning]
    if broken:
        return fault(
            name,
            f"{len(broken)} of {counted(len(numbers), 'example')} that "
            f"{'was' if len(numbers) == 1 else 'were'} tried cannot be read, number "
            f"{broken[0]} the first.",
            "Prepare or copy the set again, or allow for them by --max-bad-images.",
        )
    where = "" if not is_local(dataset) or "folder:" in dataset else _place(source)
    sentence = (
        f"{counted(count, 'example')} of "
        f"{counted(len(source.class_names), 'class', 'classes')}{where}; "
        f"{len(numbers)} {'was' if len(numbers) == 1 else 'were'} read and decoded."
    )
    if left_out:
        return warning(name, f"{sentence} {left_out[0]}", "See that none is missed.")
    return ok(name, sentence)


def _spread(count: int) -> list[int]:
    """Returns numbers of examples, the first and the last among them."""
    wanted = min(NUM_EXAMPLES, count)
    if wanted == 1:
        return [0]
    return sorted({round(n * (count - 1) / (wanted - 1)) for n in range(wanted)})


def _is_read(source: Any, number: int) -> bool:
    from cnn_jax.data.reading import image_of

    try:
        example = source[number]
        image_of(example, source.features.image_shape[2])
    except Exception:  # of many types, for a damaged record
        return False
    return 0 <= example.label < len(source.class_names)


def _place(source: Any) -> str:
    root = getattr(source, "root", None)
    return f" in {pathlib.Path(root)}" if root else ""


def _hangs(name: str, where: str, error: Exception) -> Finding:
    return fault(
        name,
        f"{where}: {error}.",
        "See that the file system is mounted and its server answers.",
    )
