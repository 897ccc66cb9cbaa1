"""Configuration of pretrained weights, and of how they are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Annotated, Literal

from cnn_jax.ranges import Pattern, Real, Text
from cnn_jax.training.config.requirements import MAX_EPOCHS, Requirement

BatchNormMode = Literal["train", "adapt", "frozen"]
"""Modes of batch normalisation in training; see `TransferConfig.batch_norm`."""


@dataclasses.dataclass(frozen=True)
class TransferConfig:
    """The part of `TrainConfig` about weights that were trained before."""

    pretrained: Annotated[str, Text("a name")] | None = None
    """Weights to start from: a file, a converted checkpoint, `hf-hub:OWNER/NAME` or
    `package:NAME`, as `cnn_jax.load_pretrained` takes them. The last layer starts anew
    where theirs is for another number of classes. Default: start from random
    weights."""
    batch_norm: BatchNormMode = "train"
    """`train`: batches are normalised by their own statistics, running ones follow,
    scales and biases learn. `adapt`: the same, but scales and biases never move, so
    that statistics alone do. `frozen`: batches are normalised by the running statistics
    in training too, and neither these nor scales and biases ever move."""
    l2_sp: Annotated[float, Real(1e-12, 10.0, or_zero=True)] = 0.0
    """Coefficient of a decay towards the weights that the run started from, in place of
    `weight_decay` towards 0, for those of `decayed_parameters` that are not the last
    layer's."""
    layer_decay: Annotated[float, Real(1e-3, 1.0)] | None = None
    """Factor of the learning rate for each stage between parameters and
    the last layer, in (0, 1]; `learning_rate_groups` apply beside it. Default: one
    rate for all."""
    unfreeze_epochs: tuple[
        tuple[Annotated[str, Pattern()], Annotated[float, Real(1e-6, MAX_EPOCHS)]], ...
    ] = ()
    """Pairs of a pattern and the epoch from whose beginning its parameters move; 0.5 is
    the middle of the first. Until then they stay as they are, as if frozen. Where
    several match, the first counts; what none matches moves from the start."""

    def _transfer_requirements(self) -> Iterable[Requirement]:
        epochs = self.epochs  # type: ignore[attr-defined]  # `TrainConfig` has it
        yield (
            "unfreeze_epochs",
            all(epoch < epochs for _, epoch in self.unfreeze_epochs),
            f"epochs below {epochs}, which is epochs; what never moves belongs into "
            "frozen_parameters",
        )
