"""How the parameters move."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

from cnn_jax.training.config.requirements import (
    Requirement,
    at_least_one,
    below_one,
    not_negative,
    positive,
)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The part of `TrainConfig` that decides the updates and the learning rate."""

    epochs: int = 10
    """Passes over the training split."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """`sgd` decays weights through the gradient (coupled), `adamw` apart from it."""
    learning_rate: float = 0.1
    """The schedule's highest value."""
    momentum: float = 0.9
    """Of `sgd`; the first moment's decay of `adamw`."""
    nesterov: bool = True
    """Whether momentum looks ahead."""
    weight_decay: float = 5e-4
    """Coefficient of the weight decay."""
    decayed_parameters: tuple[str, ...] = (r"(^|/)kernel$",)
    """Patterns on parameter paths that say what is decayed: not norms and biases."""
    schedule: Literal["constant", "cosine", "linear", "one_cycle", "step"] = "one_cycle"
    """How the learning rate moves over the run."""
    warmup_epochs: float = 0.0
    """Epochs of rising learning rate. For `one_cycle`, 0 means 30 % of the run."""
    step_milestones: tuple[float, ...] = (0.5, 0.75)
    """For `step`: shares of the run at which the learning rate drops."""
    step_factor: float = 0.1
    """For `step`: what it is multiplied by."""

    def _optimizer_requirements(self) -> Iterable[Requirement]:
        yield from at_least_one(self, "epochs")
        yield from positive(self, "learning_rate", "step_factor")
        yield from not_negative(self, "weight_decay", "warmup_epochs")
        yield from below_one(self, "momentum")
        yield "warmup_epochs", self.warmup_epochs < self.epochs, "less than epochs"
        yield (
            "step_milestones",
            all(0 < share < 1 for share in self.step_milestones)
            and list(self.step_milestones) == sorted(set(self.step_milestones)),
            "rising numbers in (0, 1)",
        )
