"""Parts of a folder of images: those that it has, or those that it is split into."""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from cnn_jax.data.dataset import Dataset
from cnn_jax.data.source import Source
from cnn_jax.data.sources.folder import Folder
from cnn_jax.data.sources.listing import LeftOut, list_classes
from cnn_jax.data.subset import Subset
from cnn_jax.seeds import check_seed

TEST_SHARE = 0.2
"""Share of a folder's images that are held out to be tested on."""

VALIDATION_SHARE = 0.15
"""Share of the images that are held out to be validated on, if they are enough."""

LEAST_VALIDATION = 20
"""Images below which no validation part is held out: with fewer, one image more or less
moves the accuracy by over 5 %, and the choice of an epoch would be one by chance."""


MOST_VALIDATION = 5000
"""Images that are enough to validate on, however many there are."""


def automatic_validation_share(num_images: int) -> float:
    """Returns the share of images to validate on, 0 where they would be too few."""
    share = min(VALIDATION_SHARE, MOST_VALIDATION / max(num_images, 1))
    return share if num_images * share >= LEAST_VALIDATION else 0.0


def num_held_out(train: Source, fraction: float) -> int:
    """Returns how many images `Dataset.split_off` or `hold_out` puts aside.

    Args:
      train: What they are of: a `Dataset`, or a source to stream from.
      fraction: The share, in [0, 1).
    """
    if not isinstance(train, Dataset):
        return round(len(train) * fraction)
    sizes = np.bincount(train.labels).tolist()
    return sum(round(size * fraction) for size in sizes)


def split_folder(
    root: str | os.PathLike[str],
    *,
    test_share: float = TEST_SHARE,
    validation_share: float | None = None,
    seed: int = 0,
) -> dict[str, Source]:
    """Returns the parts of a folder of images, splitting it if it is not split.

    `root/SPLIT/CLASS/` is taken as it is: `train`, `val` or `validation`, and `test`.
    Without `test`, the validation directory is what is tested on. What is missing is
    held out of `train`, or of `root/CLASS/`, by `partition`.

    Args:
      root: The directory.
      test_share: The share of each class to hold out for the test, in (0, 1).
      validation_share: The same for validation, in [0, 1), of which 0 holds out none.
        None takes `automatic_validation_share`.
      seed: Chooses which images.

    Returns:
      `"train"`, `"test"` and, if there is one, `"validation"`.

    Raises:
      FileNotFoundError, PermissionError: As `Folder` does.
      ValueError: As `Folder` does; if there is one class only, or an image too few of
        a class; if a share is out of range.

    Warns:
      UserWarning: As `Folder` does.
    """
    _check_shares(test_share, validation_share or 0.0)
    whole = Folder(root, "train")
    if len(whole.class_names) < 2:
        raise ValueError(
            f"{whole.root}: got one class, {whole.class_names[0]!r}, expected at least "
            "two: a directory of images for each."
        )
    names = [path.name for path in list_classes(whole.root, LeftOut(whole.root))]
    given = [name for name in Folder.SPLITS[1:] if "train" in names and name in names]
    found: dict[str, Source] = {}
    if given:
        found["test"] = Folder(whole.root, given[-1])
    if len(given) > 1:
        found["validation"] = Folder(whole.root, given[0])
    shares = {} if "test" in found else {"test": test_share}
    sizes = np.bincount(whole.labels)
    if "validation" not in found:
        if validation_share is None:
            validation_share = automatic_validation_share(len(whole))
            if sizes.min() <= len(shares) + 1:
                validation_share = 0.0
        if validation_share:
            shares["validation"] = validation_share
    if not shares:
        return {"train": whole, **found}
    if sizes.min() <= len(shares):
        few = int(np.argmin(sizes))
        raise ValueError(
            f"{whole.root}: got {sizes[few]} image(s) of {whole.class_names[few]!r}, "
            f"expected at least {len(shares) + 1} of each class: one to train on, and "
            f"one to hold out for {' and '.join(shares)}."
        )
    parts = partition(whole.file_names, whole.labels, shares, seed)
    return {
        **{name: Subset(whole, indices, name) for name, indices in parts.items()},
        **found,
    }


def partition(
    names: Sequence[str], labels: np.ndarray, shares: Mapping[str, float], seed: int = 0
) -> dict[str, np.ndarray]:
    """Splits examples into parts, class by class, in an order drawn from their names.

    Each class gives every share of its examples, rounded, at least one and never its
    last. Which ones follows from the names and the seed alone: neither from the order
    of the files nor from other classes. A further example of a class moves at most one
    other of that class across each boundary between two parts. (None at all, with
    shares that stay exact, is impossible: the further one may belong to a part that is
    full.)

    Args:
      names: One for each example, all different.
      labels: Integers `(n,)`.
      shares: Name of a part -> its share, which add up to less than 1.
      seed: Chooses which examples.

    Returns:
      `"train"`, with all that no part takes, and the parts: the examples' numbers,
      ascending, int64.

    Raises:
      ValueError: If a share is out of range, or the seed is none.
    """
    _check_shares(*shares.values())
    prefix = f"{check_seed(seed)}/".encode()
    drawn = [
        hashlib.sha256(prefix + os.fsencode(pathlib.PurePath(name).as_posix())).digest()
        for name in names
    ]
    parts: dict[str, list[int]] = {"train": [], **{name: [] for name in shares}}
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label).tolist()
        members.sort(key=drawn.__getitem__)
        total = len(members)
        for name, share in shares.items():
            wanted = max(1, round(total * share)) if share else 0
            size = max(0, min(wanted, len(members) - 1))
            parts[name] += members[:size]
            members = members[size:]
        parts["train"] += members
    return {name: np.sort(np.asarray(found, np.int64)) for name, found in parts.items()}


def _check_shares(*shares: float) -> None:
    if not all(0 <= share < 1 for share in shares) or sum(shares) >= 1:
        raise ValueError(
            f"shares: got {', '.join(map(str, shares))} to hold out, expected numbers "
            "in [0, 1) that leave some to train on."
        )
