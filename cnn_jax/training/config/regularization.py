"""What keeps a network from learning its training set by heart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from cnn_jax.training.config.requirements import (
    Requirement,
    at_least_one_if_given,
    below_one,
    not_negative,
)


@dataclasses.dataclass(frozen=True)
class RegularizationConfig:
    """The part of `TrainConfig` about regularisers; weight decay is the optimizer's."""

    label_smoothing: float = 0.0
    """Weight of the uniform distribution in the targets."""
    mixup_alpha: float = 0.0
    """Of the Beta distribution of mixup's shares. Default 0: no mixup."""
    cutmix_alpha: float = 0.0
    """The same for CutMix; with both, each batch gets one of them."""
    patience: int | None = None
    """Epochs without gain in validation accuracy before stopping. Default: never."""
    minimum_gain: float = 0.0
    """What counts as gain: more than this above the best so far."""

    def _regularization_requirements(self) -> Iterable[Requirement]:
        yield from below_one(self, "label_smoothing")
        yield from at_least_one_if_given(self, "patience")
        yield from not_negative(self, "minimum_gain", "mixup_alpha", "cutmix_alpha")
