"""Configuration of pretrained weights, and of how they are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

from cnn_jax.training.config.requirements import (
    Requirement,
    is_pattern,
    not_negative,
)

BatchNormMode = Literal["train", "adapt", "frozen"]
"""Modes of batch normalisation in training; see `TransferConfig.batch_norm`."""


@dataclasses.dataclass(frozen=True)
class TransferConfig:
    """The part of `TrainConfig` about weights that were trained before."""

    pretrained: str | None = None
    """Weights to start from: a file, a converted checkpoint, `hf-hub:OWNER/NAME` or
    `package:NAME`, as `cnn_jax.load_pretrained` takes them. The last layer starts anew
    where theirs is for another number of classes. Default: start from random
    weights."""
    batch_norm: BatchNormMode = "train"
    """`train`: batches are normalised by their own statistics, running ones follow,
    scales and biases learn. `adapt`: the same, but scales and biases never move, so
    that statistics alone do. `frozen`: batches are normalised by the running statistics
    in training too, and neither these nor scales and biases ever move."""
    l2_sp: float = 0.0
    """Coefficient of a decay towards the weights that the run started from, in place of
    `weight_decay` towards 0, for those of `decayed_parameters` that are not the last
    layer's."""
    layer_decay: float | None = None
    """Factor of the learning rate for each stage between parameters and
    the last layer, in (0, 1]; `learning_rate_groups` apply beside it. Default: one
    rate for all."""
    unfreeze_epochs: tuple[tuple[str, float], ...] = ()
    """Pairs of a pattern and the epoch from whose beginning its parameters move; 0.5 is
    the middle of the first. Until then they stay as they are, as if frozen. Where
    several match, the first counts; what none matches moves from the start."""

    def _transfer_requirements(self) -> Iterable[Requirement]:
        yield "pretrained", self.pretrained != "", "a name, or None"
        yield from not_negative(self, "l2_sp")
        yield (
            "layer_decay",
            self.layer_decay is None or 0 < self.layer_decay <= 1,
            "in (0, 1], or None",
        )
        epochs = self.epochs  # type: ignore[attr-defined]  # `TrainConfig` has it
        yield (
            "unfreeze_epochs",
            all(
                is_pattern(pattern) and 0 < epoch < epochs
                for pattern, epoch in self.unfreeze_epochs
            ),
            f"pairs of a regular expression and a number above 0 and below epochs, "
            f"{epochs}; what never moves belongs into frozen_parameters",
        )
