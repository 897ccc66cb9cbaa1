"""The end of a run: its result, or a loss that is not finite."""

from __future__ import annotations

import dataclasses
from typing import Any

from cnn_jax.training.step.state import TrainState


class NonFiniteLossError(ArithmeticError):
    """The loss, a gradient or a parameter became NaN or infinite.

    Attributes:
      step: The first step with such a loss or gradient; the run's first step is 1.
      leaf: The path of the first gradient, or of the first leaf of the state, that is
        not finite; None if only the loss is not.
    """

    def __init__(self, step: int, epoch: int, leaf: str | None, advice: str):
        where = "" if leaf is None else f"; the first leaf that is not: {leaf}"
        super().__init__(
            f"The loss was not finite at step {step} (epoch {epoch}){where}. {advice} "
            "A lower learning rate or a longer warm-up is the usual cure; "
            "non_finite='skip' leaves out the updates of a few such steps."
        )
        self.step: int = step
        self.leaf: str | None = leaf


@dataclasses.dataclass(frozen=True, repr=False)
class FitResult:
    """The result of a run.

    Attributes:
      state: The final state.
      best_variables: `{"params", "batch_stats"}` that `test` is the score of: those of
        the epoch with the highest validation accuracy (the first of equals), the final
        ones without a validation split. NumPy arrays.
      best_epoch: That epoch, counted from 1; the last without a validation split.
      test: The `evaluation_metrics` of `best_variables`; None without a test split.
      history: One mapping per epoch: epoch, step, train_loss and train_accuracy (means
        over the epoch, while it was trained), train_skipped_steps where steps may be
        skipped, the `evaluation_metrics` of the validation and the test split, where
        there is one (validation_loss, test_top5_accuracy, ...), learning_rate unless
        only an optimizer of the caller's own knows it, and the training's seconds,
        images_per_second and waiting_share so far.
      stopped_early: Whether patience ran out before the epochs did.
      interrupted: Whether Ctrl-C ended it in an interactive session.
      compile_seconds: Tracing and compiling of the training and evaluation programs,
        once for all the runs that share them.
      train_seconds: Wall time of the training steps, with logging and checkpoints
        inside epochs, without compilation and evaluation; of resumed runs, the time
        that led to the result.
      step_seconds_median: Median over logging intervals of the mean time of a step; NaN
        if this process trained no step.
      step_seconds_p90: The 90th percentile of the same.
      step_seconds_p99: The 99th percentile.
      waiting_share: The part of this process's training time that was spent waiting
        for data.
      images_per_second: Training images over `train_seconds`.
      flops_utilization: The share of the devices' peak that the model's own arithmetic
        takes, or None; see `speed.model_flops_utilization`.
      bad_images: `{"origin", "reason"}` of every image of a stream that was skipped.
      peak_memory_bytes: What the compiled training step needs on one device (arguments,
        the dataset among them, results and temporaries), as planned by the compiler; 0
        where it does not tell.
      state_digest: `cnn_jax.trees.digest` of the final state.
      run_dir: Where the files are, or None.
      environment_changes: `{"step", "changed"}` for each time that the run was resumed
        in another environment (see `run.directory.environment`), `changed` being part
        -> [before, since].
      images: How images were prepared: the fields of a `Preprocessing`, and
        `input_shape`.
      keeps_memory: Whether the process that trained kept the memory that it freed, see
        `cnn_jax.allocator`.
    """

    state: TrainState
    best_variables: dict[str, Any]
    best_epoch: int
    test: dict[str, float] | None
    history: list[dict[str, float]]
    stopped_early: bool
    interrupted: bool
    compile_seconds: float
    train_seconds: float
    step_seconds_median: float
    step_seconds_p90: float
    step_seconds_p99: float
    waiting_share: float
    images_per_second: float
    flops_utilization: float | None
    bad_images: list[dict[str, str]]
    peak_memory_bytes: int
    state_digest: str
    run_dir: str | None
    environment_changes: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    images: dict[str, Any] = dataclasses.field(default_factory=dict)
    keeps_memory: bool = False

    def __repr__(self) -> str:
        metrics = self.test or {}
        test = ", ".join(f"{name} {value:.6g}" for name, value in metrics.items())
        early = ", stopped early" if self.stopped_early else ""
        early += ", interrupted" if self.interrupted else ""
        return (
            f"FitResult(test: {test or None}; epoch {self.best_epoch} of "
            f"{len(self.history)}{early}; {self.train_seconds:.1f} s of training; "
            f"run_dir {self.run_dir!r})"
        )

    def summary(self) -> dict[str, Any]:
        """Returns everything but the arrays, as a mapping that JSON can hold."""
        arrays = ("state", "best_variables")
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in arrays
        }
