"""A run's progress beside its arrays, and early stopping."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class RunProgress:
    """The progress of a run; JSON in every checkpoint.

    Attributes:
      history: A mapping for each epoch that was evaluated.
      trained: The metrics of an epoch whose steps are over and whose evaluation is not;
        a run that was stopped in between evaluates it when it is resumed.
      best_epoch: The epoch with the highest validation accuracy, from 1; 0 for none.
      best_step: The steps at its end.
      best_accuracy: That accuracy.
      target: The accuracy that the next gain is measured from: with a minimum gain, a
        best epoch that gained too little does not move it.
      epochs_without_gain: Epochs since there was one.
      stopped_early: Whether they were too many.
      train_seconds: Of all training steps so far.
      epoch_seconds: Of those of the epoch in progress.
    """

    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    trained: dict[str, float] | None = None
    best_epoch: int = 0
    best_step: int = 0
    best_accuracy: float = -1.0
    target: float = -1.0
    epochs_without_gain: int = 0
    stopped_early: bool = False
    train_seconds: float = 0.0
    epoch_seconds: float = 0.0

    def update_best(
        self,
        accuracy: float,
        *,
        epoch: int,
        step: int,
        minimum_gain: float,
        patience: int | None,
    ) -> bool:
        """Compares an epoch with the best one, and decides whether to go on.

        Args:
          accuracy: The epoch's validation accuracy.
          epoch: Its number, from 1.
          step: The steps at its end.
          minimum_gain: What counts as gain: more than this above the target.
          patience: Epochs without gain before stopping; None never stops.

        Returns:
          Whether the epoch is the best so far.
        """
        is_best = accuracy > self.best_accuracy
        if is_best:
            self.best_accuracy = accuracy
            self.best_epoch, self.best_step = epoch, step
        if accuracy > self.target + minimum_gain:
            self.target = accuracy
            self.epochs_without_gain = 0
        else:
            self.epochs_without_gain += 1
        if patience is not None:
            self.stopped_early = self.epochs_without_gain >= patience
        return is_best
