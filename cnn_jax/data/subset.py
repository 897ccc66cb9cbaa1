"""A part of a source, by the numbers of its examples; and holding a part out."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from cnn_jax.data.source import Example, Features, Source, cached_property
from cnn_jax.seeds import check_seed


@dataclasses.dataclass(frozen=True, eq=False)
class Subset:
    """Some of a source's examples, in an order of their own.

    Attributes:
      source: Where the examples are.
      indices: Their numbers there, int64 of shape `(n,)`.
      split: What this part is called.
    """

    source: Source
    indices: np.ndarray
    split: str

    @property
    def name(self) -> str:
        """The source's name."""
        return self.source.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """The source's class names."""
        return self.source.class_names

    @property
    def features(self) -> Features:
        """The shape and encoding of the source's examples."""
        return self.source.features

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 over the source's own and the indices."""
        total = hashlib.sha256(self.source.fingerprint.encode())
        total.update(np.ascontiguousarray(self.indices.astype("<i8")).data)
        return total.hexdigest()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[int(self.indices[index])]


def hold_out(source: Source, fraction: float, seed: int = 0) -> tuple[Subset, Subset]:
    """Holds out a part of a source without reading its examples.

    `Dataset.split_off` holds out the same share of every class; a source's labels would
    have to be read first, so this draws from all examples alike.

    Args:
      source: At least two examples.
      fraction: The share to hold out, in (0, 1), rounded to whole examples.
      seed: Chooses which ones.

    Returns:
      The rest and the held-out part, both in the original order.

    Raises:
      ValueError: If `fraction` is out of range or leaves one part empty, or the seed is
        none.
    """
    check_fraction(fraction)
    # RandomState's stream is frozen by NumPy's policy, as in `Dataset.split_off`.
    random = np.random.RandomState(check_seed(seed))
    num_held = round(len(source) * fraction)
    check_both_sides(fraction, num_held, len(source))
    held = np.zeros(len(source), dtype=bool)
    held[random.permutation(len(source))[:num_held]] = True
    return (
        Subset(source, np.flatnonzero(~held), f"{source.split} without validation"),
        Subset(source, np.flatnonzero(held), f"validation from {source.split}"),
    )


def check_fraction(fraction: float) -> None:
    """Checks a share to hold out.

    Raises:
      ValueError: If it is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction: got {fraction}, expected between 0 and 1.")


def check_both_sides(fraction: float, num_held: int, num_examples: int) -> None:
    """Checks that holding out leaves some examples and takes some.

    Raises:
      ValueError: If it does not.
    """
    if not 0 < num_held < num_examples:
        raise ValueError(
            f"fraction: got {fraction}, which holds out {num_held} of {num_examples} "
            "examples; expected to leave some on both sides."
        )
