"""Configuration of the optimizer and its learning rate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Annotated, Literal

from cnn_jax.ranges import Length, Pattern, Real, Whole
from cnn_jax.training.config.requirements import (
    MAX_EPOCHS,
    Decay,
    Patterns,
    Requirement,
)

LEARNING_RATE = Real(1e-10, 1e4)
"""Below, no weight moves in float32; above, none keeps what it has learned."""

RATE_FACTOR = Real(
    1e-6, 1e6, hint="what has no learning rate belongs into frozen_parameters"
)
"""The factor of a group's learning rate."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The part of `TrainConfig` that decides the updates and the learning rate."""

    epochs: Annotated[int, Whole(1, MAX_EPOCHS)] = 10
    """Passes over the training split."""
    optimizer: Literal["sgd", "adamw", "lamb", "lars", "rmsprop", "muon"] = "sgd"
    """`sgd`, `lars` and `rmsprop` decay weights through the gradient (coupled), the
    others apart from it; see `cnn_jax.training.make_optimizer`."""
    learning_rate: Annotated[float, LEARNING_RATE] = 0.1
    """The schedule's highest value."""
    momentum: Annotated[float, Real(1e-6, 0.9999, or_zero=True)] = 0.9
    """Of `sgd`, `lars`, `rmsprop` and `muon`; the first moment's decay of `adamw` and
    `lamb`."""
    nesterov: bool = True
    """Use Nesterov's momentum, which looks ahead."""
    second_moment_decay: Decay | None = None
    """Of all but `sgd` and `lars`. Default: 0.9 for `rmsprop`, 0.999 for others."""
    epsilon: Annotated[float, Real(1e-16, 1.0)] | None = None
    """Added to their divisors. Default: 1e-3 for `rmsprop`, 1e-6 for `lamb`,
    1e-8 for others."""
    weight_decay: Annotated[float, Real(1e-12, 10.0, or_zero=True)] = 5e-4
    """Coefficient of the weight decay."""
    decayed_parameters: Patterns = (r"(^|/)kernel$",)
    """Patterns on parameter paths that say what is decayed: not norms and biases. For
    `lars` and `lamb` also what has a rate of its own, from the ratio of norms."""
    muon_parameters: Patterns = (r"(^|/)kernel$",)
    """Patterns that say what `muon` orthogonalises, matrices and filters among them;
    what it does not moves by `adamw`."""
    frozen_parameters: Patterns = ()
    """Patterns that say what never moves. Running statistics go on running; see
    `batch_norm`."""
    learning_rate_groups: tuple[
        tuple[Annotated[str, Pattern()], Annotated[float, RATE_FACTOR]], ...
    ] = ()
    """Pairs of a pattern and the factor of its parameters' learning rate. Where several
    match, the first counts."""
    maximum_gradient_norm: Annotated[float, Real(1e-4, 1e9)] | None = None
    """Gradients are scaled down to this norm, taken over all that is trained. Default:
    never."""
    accumulate_steps: Annotated[int, Whole(1, 2**16)] = 1
    """Microbatches that a batch is split into where it does not fit at once. A step
    remains one update from the whole batch; `batch_size` is the whole."""
    ema_decay: Decay | None = None
    """Decay of a moving average of parameters and running statistics, which is then
    what is evaluated and kept. Default: no average."""
    sam_radius: Annotated[float, Real(1e-6, 10.0, or_zero=True)] = 0.0
    """Distance up the slope at which the gradient is taken (sharpness-aware
    minimisation, which doubles a step's cost). Default 0: right here."""
    schedule: Literal["constant", "cosine", "linear", "one_cycle", "step"] = "one_cycle"
    """Shape of the learning rate over the run."""
    warmup_epochs: Annotated[float, Real(1e-6, MAX_EPOCHS, or_zero=True)] = 0.0
    """Epochs of rising learning rate. For `one_cycle`, 0 means 30 % of the run."""
    step_milestones: Annotated[
        tuple[Annotated[float, Real(1e-6, 1 - 1e-6)], ...], Length(0, 100)
    ] = (0.5, 0.75)
    """For `step`: shares of the run at which the learning rate drops."""
    step_factor: Annotated[float, Real(1e-6, 10.0)] = 0.1
    """For `step`: what it is multiplied by."""

    def _optimizer_requirements(self) -> Iterable[Requirement]:
        yield "warmup_epochs", self.warmup_epochs < self.epochs, "less than epochs"
        yield (
            "weight_decay",
            # These scale a step to the norm of what it moves.
            self.optimizer in ("lars", "lamb")
            or not self.learning_rate * self.weight_decay >= 1,  # of NaN it says so
            "less than 1 / learning_rate: a step would take away all of a weight",
        )
        yield (
            "step_milestones",
            list(self.step_milestones) == sorted(set(self.step_milestones)),
            "rising numbers in (0, 1)",
        )
        # A product, unlike a power, becomes infinite rather than an error.
        last = math.prod(
            [self.learning_rate] + [self.step_factor] * len(self.step_milestones)
        )
        yield (
            "step_factor",
            self.schedule != "step" or LEARNING_RATE.holds(last),
            f"one that keeps the learning rate {LEARNING_RATE.least:g} to "
            f"{LEARNING_RATE.most:g} to the last of step_milestones, not {last:g}",
        )
