"""The logit of each class of the data.

Classes are the same if their names are. Folders named by ImageNet's WordNet ids are
ImageNet's classes, however few of them there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from cnn_jax.data.imagenet import imagenet_class_names, imagenet_wordnet_ids
from cnn_jax.ranges import shown


@dataclasses.dataclass(frozen=True, eq=False)
class ClassMap:
    """The logits of the data's classes.

    Attributes:
      names: One name for each logit.
      logits: The logit of each class of the data, int32 `(classes,)`.
      is_imagenet: Whether all of them are classes of ImageNet's challenge, scored
        against its 1,000 logits.
    """

    names: tuple[str, ...]
    logits: np.ndarray
    is_imagenet: bool = False


def match_classes(
    data_names: Sequence[str],
    weights_names: Sequence[str] | None,
    num_classes: int,
    *,
    data: str = "the data",
) -> ClassMap:
    """Returns which logit each class of the data has.

    Args:
      data_names: The names of the data's classes, in the order of their labels.
      weights_names: Those of the logits; None where the weights do not say them.
      num_classes: The number of logits.
      data: What an error calls the data.

    Raises:
      ValueError: If the data's classes are not those of the weights.
    """
    names = tuple(data_names)
    known = None if weights_names is None else tuple(weights_names)
    if known is not None and len(known) != num_classes:
        raise ValueError(
            f"class names: got {len(known):,}, expected {num_classes:,}, one for each "
            "logit of these weights."
        )
    ids, imagenet = imagenet_wordnet_ids(), imagenet_class_names()
    of_imagenet = num_classes == len(ids) and known in (None, ids, imagenet)
    if of_imagenet and set(names) <= set(ids):
        return ClassMap(imagenet, _places(names, ids), is_imagenet=True)
    if of_imagenet and set(names) == set(imagenet):
        return ClassMap(imagenet, _places(names, imagenet), is_imagenet=True)
    if known == names or (known is None and len(names) == num_classes):
        # In order; of two classes with one name, too.
        return ClassMap(names, np.arange(num_classes, dtype=np.int32))
    if known is not None and len(set(names)) == len(names):
        is_subset = set(names) <= set(ids)  # else it has to have all of them
        if set(names) == set(known) or (is_subset and set(names) <= set(known)):
            return ClassMap(known, _places(names, known))
    raise ValueError(
        f"{data}: got {_listed(names)}, expected the classes of the weights, "
        f"{f'{num_classes:,} without names' if known is None else _listed(known)}; "
        "folders have to be called as these are, or, for ImageNet's classes, by their "
        f"WordNet ids.{_difference(names, known)}"
    )


def _places(names: Sequence[str], known: Sequence[str]) -> np.ndarray:
    place = {name: index for index, name in enumerate(known)}
    return np.asarray([place[name] for name in names], np.int32)


def _listed(names: Sequence[str]) -> str:
    few = ", ".join(map(shown, names[:3]))
    return f"{len(names):,} classes ({few}{', ...' if len(names) > 3 else ''})"


def _difference(names: Sequence[str], known: Sequence[str] | None) -> str:
    """Returns a sentence with a class that the weights do not have, if there is one."""
    unknown = [name for name in names if known is not None and name not in known]
    return f" The weights have no {shown(unknown[0])}." if unknown else ""
