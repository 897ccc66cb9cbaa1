"""What a training run is made of, in one frozen dataclass."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

RESUME_MAY_CHANGE = (
    "data_dir",
    "run_dir",
    "resume",
    "checkpoint_every_steps",
    "keep_checkpoints",
)
"""Fields that may differ when a run is resumed: they do not touch its numbers."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run's numbers, and where its files go."""

    model: str = "lenet5"
    """Name of the model, one of `cnn-jax models`."""
    dataset: str = "digits"
    """`digits`, or the name of a prepared TFDS set."""
    data_dir: str | None = None
    """Where TFDS sets lie. Default: `$CNN_JAX_DATA/tfds`, else TFDS's own."""
    image_size: int | None = None
    """Height and width to bring images to. Default: the dataset's own."""
    mean: tuple[float, ...] | None = None
    """Per channel, subtracted from pixels in [0, 1]. Default: the training split's."""
    std: tuple[float, ...] | None = None
    """Per channel, what is then divided by. Default: the training split's."""
    validation_fraction: float = 0.0
    """Share of the training split held out, stratified, for early stopping."""

    epochs: int = 10
    """Passes over the training split."""
    batch_size: int = 128
    """Examples per step, over all devices. An epoch's incomplete batch is left out."""
    seed: int = 0
    """Seed of everything random: parameters, order, augmentation, dropout."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of activations; parameters, statistics and loss stay float32."""

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

    label_smoothing: float = 0.0
    """Weight of the uniform distribution in the targets."""
    crop_padding: int = 0
    """Zeros around an image before a random crop back to its size."""
    flip: bool = False
    """Whether images are mirrored at random. Not for digits."""

    patience: int | None = None
    """Epochs without gain in validation accuracy before stopping. Default: never."""
    minimum_gain: float = 0.0
    """What counts as gain: more than this above the best so far."""

    run_dir: str | None = None
    """Directory for config, metrics, events and checkpoints. Default: keep none."""
    resume: bool = False
    """Continue the run in `run_dir` from its newest checkpoint."""
    checkpoint_every_steps: int = 0
    """Steps between checkpoints. Default 0: one after every epoch."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints are kept, beside the best one."""
    log_every_steps: int = 20
    """Steps between log lines, each of which waits for the device once."""

    def validate(self) -> None:
        """Checks every field.

        Raises:
          ValueError: Listing all fields with a value that cannot be meant.
        """
        problems = [
            f"  {field}: got {getattr(self, field)!r}, expected {expected}"
            for field, holds, expected in self._requirements()
            if not holds
        ]
        if problems:
            raise ValueError("The configuration has mistakes:\n" + "\n".join(problems))

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as a mapping that JSON can hold."""
        return dataclasses.asdict(self)

    def _requirements(self) -> list[tuple[str, bool, str]]:
        one_of = {
            "dtype": ("float32", "bfloat16"),
            "optimizer": ("sgd", "adamw"),
            "schedule": ("constant", "cosine", "linear", "one_cycle", "step"),
        }
        early_stopping = self.patience is not None
        return [
            *(
                (field, getattr(self, field) in values, f"one of {values}")
                for field, values in one_of.items()
            ),
            *(
                (field, getattr(self, field) >= 1, "at least 1")
                for field in (
                    "epochs",
                    "batch_size",
                    "keep_checkpoints",
                    "log_every_steps",
                )
            ),
            *(
                (field, _finite(getattr(self, field)), "a finite number, 0 or more")
                for field in (
                    "weight_decay",
                    "warmup_epochs",
                    "crop_padding",
                    "minimum_gain",
                    "checkpoint_every_steps",
                )
            ),
            *(
                (field, 0 <= getattr(self, field) < 1, "in [0, 1)")
                for field in ("momentum", "label_smoothing", "validation_fraction")
            ),
            (
                "learning_rate",
                _finite(self.learning_rate) and self.learning_rate > 0,
                "a finite number above 0",
            ),
            ("warmup_epochs", self.warmup_epochs < self.epochs, "less than epochs"),
            (
                "image_size",
                self.image_size is None or self.image_size >= 1,
                "at least 1, or None",
            ),
            (
                "mean",
                (self.mean is None) == (self.std is None),
                "to be given together with std",
            ),
            (
                "std",
                self.std is None or all(value > 0 for value in self.std),
                "positive numbers",
            ),
            (
                "step_milestones",
                all(0 < share < 1 for share in self.step_milestones)
                and list(self.step_milestones) == sorted(set(self.step_milestones)),
                "rising numbers in (0, 1)",
            ),
            (
                "step_factor",
                _finite(self.step_factor) and self.step_factor > 0,
                "a finite number above 0",
            ),
            (
                "patience",
                not early_stopping or self.patience >= 1,
                "at least 1, or None",
            ),
            (
                "resume",
                not self.resume or self.run_dir is not None,
                "run_dir to be given, which says what to resume",
            ),
        ]


def _finite(value: float) -> bool:
    return math.isfinite(value) and value >= 0
