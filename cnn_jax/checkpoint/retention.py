"""Which checkpoints stay."""

from __future__ import annotations

from collections.abc import Mapping


def best_step(metrics: Mapping[int, float | None]) -> int | None:
    """Returns the step with the highest metric, the earliest of equals, or None."""
    known = {step: value for step, value in metrics.items() if value is not None}
    return max(known, key=lambda step: (known[step], -step), default=None)


def steps_to_keep(
    metrics: Mapping[int, float | None], *, newest: int, every: int | None
) -> set[int]:
    """Returns the steps that stay.

    The best stays, and so does what was the best when one of the newest was saved: if
    those after it are found damaged, that one is gone back to.

    Args:
      metrics: The steps there are, with what the best is chosen by.
      newest: How many of the newest stay.
      every: Steps that are multiples of this stay, if it is not None.
    """
    kept = set(sorted(metrics)[-newest:])
    best = {
        best_step({step: metrics[step] for step in metrics if step <= last})
        for last in kept
    }
    if every is not None:
        kept.update(step for step in metrics if step % every == 0)
    return kept | {step for step in best if step is not None}
