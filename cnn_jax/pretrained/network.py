"""A network with its weights and all that is known of them.

Prediction, evaluation and export begin with it: the model that the weights are for, the
names of its classes, and the preparation of its images.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnn_jax.preprocessing import Preprocessing
from cnn_jax.pretrained.files import describe_own
from cnn_jax.pretrained.load import fill
from cnn_jax.pretrained.preprocessing import preprocessing_of
from cnn_jax.pretrained.rebuild import rebuild
from cnn_jax.pretrained.report import ConversionReport


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedNetwork:
    """A network with its weights.

    Attributes:
      name: The model's name in `list_models()`.
      model: The model, one with `num_classes` and `dtype`.
      variables: Its variables.
      report: What was loaded, and where it comes from.
      preprocessing: How images become its input.
      class_names: The names of its classes; None if nobody says them.
    """

    name: str
    model: Any
    variables: dict[str, Any]
    report: ConversionReport
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None

    @property
    def dtype(self) -> str:
        """The name of the dtype that it computes in."""
        return str(np.dtype(self.model.dtype or "float32"))

    def normalization(
        self, *, instead: str
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Returns the mean and the deviation that pixels are normalised with.

        Args:
          instead: What to do with a network that has none, for the error.

        Raises:
          ValueError: If it is for floating-point images.
        """
        mean, std = self.preprocessing.mean, self.preprocessing.std
        if mean is None or std is None:
            raise ValueError(
                f"{self.report.provenance.location}: got the weights of a run on "
                "floating-point images, which its caller had prepared, so that pixels "
                f"cannot be prepared likewise; {instead}."
            )
        return mean, std


def load_network(
    weights: str | os.PathLike[str],
    *,
    name: str | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
) -> LoadedNetwork:
    """Returns the network of a training run or of other weights.

    Args:
      weights: What `load_pretrained` reads, but no mapping.
      name: The model's name; None takes the one that weights of this project say.
      num_classes: How many classes they are for; None takes what they say, the number
        of names, or the model's usual number.
      class_names: One for each class; None takes what they say, or ImageNet's for
        weights that are known to be published for it.

    Warns:
      UserWarning: If mean and deviation are a guess, see `preprocessing_of`.
      DamagedCheckpointWarning: If a newer checkpoint than the one taken is damaged.

    Raises:
      FileNotFoundError, ImportError, ValueError: As `load_pretrained`. If there are
        other than one name for each class.
    """
    known = describe_own(weights)
    if known is not None:
        name = name or known.model
        num_classes = known.num_classes if num_classes is None else num_classes
        class_names = known.class_names if class_names is None else class_names
    if num_classes is None and class_names is not None:
        num_classes = len(class_names)
    model: Any = rebuild(weights, known, name=name, num_classes=num_classes)
    assert name is not None  # else there were no model
    if class_names is not None and len(class_names) != model.num_classes:
        raise ValueError(
            f"class names: got {len(class_names)}, expected {model.num_classes}, one "
            f"for each class of this {name}."
        )
    variables, report = fill(
        model, weights, source=None, num_classes=num_classes, key=None
    )
    names = class_names or report.known_class_names(model.num_classes)
    return LoadedNetwork(
        name=name,
        model=model,
        variables=variables,
        report=report,
        preprocessing=preprocessing_of(
            report, name, is_run=known is not None and known.is_run
        ),
        class_names=None if names is None else tuple(names),
    )
