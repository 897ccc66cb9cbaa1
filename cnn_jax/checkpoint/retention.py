"""Retention: the choice of the checkpoints to keep.

Orbax's `CheckpointManager` could be given this rule as a `PreservationPolicy`, but not
what the rule is applied to. It counts every committed step, since it does not verify
contents: a newest step that is damaged would stay in place of a sound one. It stores a
step's metric when it saves the step and cannot replace it, which `Checkpointer.amend`
does once an epoch's accuracy is known. On a disk it removes a step under its own name,
so that a kill leaves half a step that counts, and it takes no lock: a second run in the
directory would remove the first one's steps.
"""

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
    those after it are found damaged, a run resumes from it.

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
