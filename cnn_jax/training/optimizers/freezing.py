"""Frozen parameters: those that never move, or not before a step.

This module needs jax, flax, optax and NumPy, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from cnn_jax import trees
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.config.transfer import BatchNormMode
from cnn_jax.training.optimizers.roles import norm_parameters

UnfreezeSteps = Sequence[tuple[str, int]]
"""Pairs of a pattern and the number of steps during which its parameters stay."""


def frozen_mask(
    params: Any,
    batch_stats: Any,
    frozen_parameters: Sequence[str],
    batch_norm: BatchNormMode,
) -> Any:
    """Marks the parameters that never move.

    Args:
      params: The parameters.
      batch_stats: The running statistics, which say whose parameters are batch norm's.
      frozen_parameters: Patterns on the parameters' paths.
      batch_norm: As `TrainConfig.batch_norm`: all but `"train"` freeze its parameters.

    Raises:
      ValueError: If a pattern matches nothing.
    """
    is_frozen = trees.path_mask(params, frozen_parameters)
    if batch_norm == "train":
        return is_frozen
    norms = norm_parameters(params, batch_stats)
    is_norm = map(norms.__contains__, trees.named_leaves(params))
    return jax.tree.map(
        lambda frozen, norm: frozen or norm,
        is_frozen,
        jax.tree.unflatten(jax.tree.structure(params), is_norm),
    )


def first_steps(
    params: Any, unfreeze_steps: UnfreezeSteps, *, allow_unmatched: bool = False
) -> Any:
    """Returns, for every parameter, after how many steps it begins to move.

    Args:
      params: The parameters, or a part of their tree.
      unfreeze_steps: Of several patterns that match, the first counts; what none
        matches moves from the start.
      allow_unmatched: Whether a pattern may match nothing, for a part of the tree.

    Raises:
      ValueError: If a pattern matches nothing though it should.
    """
    return trees.choose_by_path(
        params, unfreeze_steps, 0, allow_unmatched=allow_unmatched
    )


def unfreeze_steps(
    config: TrainConfig, steps_per_epoch: int | None
) -> tuple[tuple[str, int], ...]:
    """Returns `config.unfreeze_epochs` in steps.

    Raises:
      ValueError: If there are any, but the number of steps in an epoch is None.
    """
    if not config.unfreeze_epochs:
        return ()
    if steps_per_epoch is None:
        raise ValueError(
            "steps_per_epoch: got None with unfreeze_epochs "
            f"{config.unfreeze_epochs}; expected how many steps an epoch has."
        )
    return tuple(
        (pattern, round(epoch * steps_per_epoch))
        for pattern, epoch in config.unfreeze_epochs
    )
