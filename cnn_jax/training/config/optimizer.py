"""Configuration of the optimizer and its learning rate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Literal

from cnn_jax.training.config.requirements import (
    Requirement,
    at_least_one,
    below_one,
    below_one_if_given,
    is_pattern,
    not_negative,
    positive,
    positive_if_given,
)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The part of `TrainConfig` that decides the updates and the learning rate."""

    epochs: int = 10
    """Passes over the training split."""
    optimizer: Literal["sgd", "adamw", "lamb", "lars", "rmsprop", "muon"] = "sgd"
    """`sgd`, `lars` and `rmsprop` decay weights through the gradient (coupled), the
    others apart from it; see `cnn_jax.training.make_optimizer`."""
    learning_rate: float = 0.1
    """The schedule's highest value."""
    momentum: float = 0.9
    """Of `sgd`, `lars`, `rmsprop` and `muon`; the first moment's decay of `adamw` and
    `lamb`."""
    nesterov: bool = True
    """Use Nesterov's momentum, which looks ahead."""
    second_moment_decay: float | None = None
    """Of all but `sgd` and `lars`. Default: 0.9 for `rmsprop`, 0.999 for others."""
    epsilon: float | None = None
    """Added to their divisors. Default: 1e-3 for `rmsprop`, 1e-6 for `lamb`,
    1e-8 for others."""
    weight_decay: float = 5e-4
    """Coefficient of the weight decay."""
    decayed_parameters: tuple[str, ...] = (r"(^|/)kernel$",)
    """Patterns on parameter paths that say what is decayed: not norms and biases. For
    `lars` and `lamb` also what has a rate of its own, from the ratio of norms."""
    muon_parameters: tuple[str, ...] = (r"(^|/)kernel$",)
    """Patterns that say what `muon` orthogonalises, matrices and filters among them;
    what it does not moves by `adamw`."""
    frozen_parameters: tuple[str, ...] = ()
    """Patterns that say what never moves. Running statistics go on running; see
    `batch_norm`."""
    learning_rate_groups: tuple[tuple[str, float], ...] = ()
    """Pairs of a pattern and the factor of its parameters' learning rate. Where several
    match, the first counts."""
    maximum_gradient_norm: float | None = None
    """Gradients are scaled down to this norm, taken over all that is trained. Default:
    never."""
    accumulate_steps: int = 1
    """Microbatches that a batch is split into where it does not fit at once. A step
    remains one update from the whole batch; `batch_size` is the whole."""
    ema_decay: float | None = None
    """Decay of a moving average of parameters and running statistics, which is then
    what is evaluated and kept. Default: no average."""
    sam_radius: float = 0.0
    """Distance up the slope at which the gradient is taken (sharpness-aware
    minimisation, which doubles a step's cost). Default 0: right here."""
    schedule: Literal["constant", "cosine", "linear", "one_cycle", "step"] = "one_cycle"
    """Shape of the learning rate over the run."""
    warmup_epochs: float = 0.0
    """Epochs of rising learning rate. For `one_cycle`, 0 means 30 % of the run."""
    step_milestones: tuple[float, ...] = (0.5, 0.75)
    """For `step`: shares of the run at which the learning rate drops."""
    step_factor: float = 0.1
    """For `step`: what it is multiplied by."""

    def _optimizer_requirements(self) -> Iterable[Requirement]:
        yield from at_least_one(self, "epochs", "accumulate_steps")
        yield from positive(self, "learning_rate", "step_factor")
        yield from positive_if_given(self, "epsilon", "maximum_gradient_norm")
        yield from not_negative(self, "weight_decay", "warmup_epochs", "sam_radius")
        yield from below_one(self, "momentum")
        yield from below_one_if_given(self, "second_moment_decay", "ema_decay")
        yield "warmup_epochs", self.warmup_epochs < self.epochs, "less than epochs"
        for field in ("decayed_parameters", "muon_parameters", "frozen_parameters"):
            patterns = getattr(self, field)
            yield field, all(map(is_pattern, patterns)), "regular expressions"
        yield (
            "learning_rate_groups",
            all(
                is_pattern(pattern) and math.isfinite(factor) and factor > 0
                for pattern, factor in self.learning_rate_groups
            ),
            "pairs of a regular expression and a finite factor above 0; what has no "
            "learning rate belongs into frozen_parameters",
        )
        yield (
            "step_milestones",
            all(0 < share < 1 for share in self.step_milestones)
            and list(self.step_milestones) == sorted(set(self.step_milestones)),
            "rising numbers in (0, 1)",
        )
