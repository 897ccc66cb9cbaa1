"""One step of training: a pure function, jit stands outside.

This module needs jax, flax, optax and NumPy, nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cnn_jax import trees
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.config.transfer import BatchNormMode
from cnn_jax.training.optimizers.freezing import (
    UnfreezeSteps,
    first_steps,
    frozen_mask,
    unfreeze_steps,
)
from cnn_jax.training.step.evaluation import Batch, LossFn, Metrics
from cnn_jax.training.step.gradients import (
    accumulate,
    gradient_function,
    hold_back,
    sharpen,
)
from cnn_jax.training.step.state import TrainState


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """The options of `train_step`.

    Attributes:
      loss_fn: Takes logits `(n, classes)` and labels, as the batch has them; returns
        one loss per example, `(n,)`, whose mean is minimised. None for softmax
        cross-entropy with `label_smoothing`.
      label_smoothing: Weight of the uniform distribution in the targets, of auxiliary
        heads too.
      auxiliary_weight: Weight a of the loss of each auxiliary head. 0 for a network
        that is called without `endpoints`, which not all can return.
      auxiliary_endpoints: The endpoints that are auxiliary heads, with a weight.
      accumulate_steps: Number k of microbatches, a divisor of the batch size.
      sam_radius: Radius rho of sharpness-aware minimisation; 0 for the plain gradient.
      ema_decay: Decay of the state's averages; None for a state that has none.
      frozen_parameters: Patterns on the paths of parameters that stay as they are, bit
        by bit, as do their averages; those of the optimizer.
      unfreeze_steps: Pairs of a pattern and the number of steps during which its
        parameters have no gradient; those of the optimizer, which then leaves them as
        they are. The first pair that matches counts.
      batch_norm: `"train"`; `"adapt"`, where the scales and biases of batch
        normalisation are frozen too; or `"frozen"`, where in addition running
        statistics take the place of the batch's and do not move. The optimizer's.
      skip_non_finite: Whether to skip updates also without a loss scale.

    Raises:
      ValueError: If a loss function is given with label smoothing, which is its own
        affair, or an auxiliary weight without endpoints.
    """

    loss_fn: LossFn | None = None
    label_smoothing: float = 0.0
    auxiliary_weight: float = 0.0
    auxiliary_endpoints: Sequence[str] = ()
    accumulate_steps: int = 1
    sam_radius: float = 0.0
    ema_decay: float | None = None
    frozen_parameters: Sequence[str] = ()
    unfreeze_steps: UnfreezeSteps = ()
    batch_norm: BatchNormMode = "train"
    skip_non_finite: bool = False

    def __post_init__(self) -> None:
        if self.loss_fn is not None and self.label_smoothing:
            raise ValueError(
                f"label_smoothing: got {self.label_smoothing} with a loss_fn, expected "
                "0: a loss function of your own smooths its labels itself."
            )
        if self.auxiliary_weight and not self.auxiliary_endpoints:
            raise ValueError(
                f"auxiliary_weight: got {self.auxiliary_weight} without "
                "auxiliary_endpoints, expected 0, or the names of the endpoints that "
                "are auxiliary heads."
            )


def train_step(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    options: StepOptions = StepOptions(),  # it is frozen
) -> tuple[TrainState, Metrics]:
    """Takes one step along the gradient of the batch's mean loss.

    With a `LossScale` in the state, or with `skip_non_finite`, the update (parameters,
    optimizer, statistics and averages) is skipped when the loss or a gradient is not
    finite; the step counts all the same. What else the options change is said where it
    is done, in `cnn_jax.training.step.gradients`.

    Args:
      state: The state before.
      batch: `{"image": (n, h, w, c) normalised, "label": (n,) integers or (n, classes)
        probabilities}`.
      key: The step's key, for what the model draws at random.
      options: What is minimised, and how.

    Returns:
      The state after, and of the batch, taken before the update, `{"loss", "accuracy",
      "skipped"}`, float32 scalars of which the last says whether the update was (1.0)
      or was not (0.0), and `"bad_leaf"`, int32: the first leaf of the gradients that is
      not finite, by its place among the leaves of `params`, or -1. `loss` is that of
      the logits, without the auxiliary heads', so that it compares with the loss of an
      evaluation; where the whole is not finite, it is not either.

    Raises:
      ValueError: If the options do not fit the network, the state or the batch.
    """
    is_frozen = frozen_mask(
        state.params, state.batch_stats, options.frozen_parameters, options.batch_norm
    )
    first = first_steps(state.params, options.unfreeze_steps)
    gradient_fn = gradient_function(
        state,
        is_frozen,
        loss_fn=options.loss_fn,
        label_smoothing=options.label_smoothing,
        auxiliary_weight=options.auxiliary_weight,
        auxiliary_endpoints=options.auxiliary_endpoints,
        batch_norm=options.batch_norm,
    )
    gradient_fn = accumulate(gradient_fn, options.accumulate_steps)
    gradient_fn = hold_back(gradient_fn, first, state.step)
    gradients, metrics, batch_stats = sharpen(gradient_fn, options.sam_radius)(
        state.params, state.batch_stats, batch, key
    )
    new_state = state.apply_gradients(
        gradients, batch_stats, ema_decay=options.ema_decay
    )
    new_state = _keep_frozen(is_frozen, options.batch_norm, state, new_state)
    metrics["bad_leaf"] = trees.first_bad_leaf(gradients)
    if state.loss_scale is None and not options.skip_non_finite:
        return new_state, {**metrics, "skipped": jnp.zeros_like(metrics["loss"])}
    is_good = (metrics["bad_leaf"] < 0) & jnp.isfinite(metrics["loss"])
    metrics["skipped"] = 1.0 - is_good.astype(jnp.float32)
    return _skip_unless(is_good, state, new_state), metrics


def step_options(
    config: TrainConfig,
    steps_per_epoch: int | None = None,
    model: Any = None,
    loss_fn: LossFn | None = None,
) -> StepOptions:
    """Returns the options of `train_step` that a configuration asks for.

    Args:
      config: The run's configuration.
      steps_per_epoch: How many steps an epoch has; needed with `unfreeze_epochs`.
      model: The network. Its attribute `auxiliary_endpoints`, if it has one, names the
        endpoints that `auxiliary_weight` applies to.
      loss_fn: As `StepOptions.loss_fn`.
    """
    auxiliary_endpoints = tuple(getattr(model, "auxiliary_endpoints", ()))
    return StepOptions(
        loss_fn=loss_fn,
        label_smoothing=config.label_smoothing,
        auxiliary_weight=config.auxiliary_weight if auxiliary_endpoints else 0.0,
        auxiliary_endpoints=auxiliary_endpoints,
        accumulate_steps=config.accumulate_steps,
        sam_radius=config.sam_radius,
        ema_decay=config.ema_decay,
        frozen_parameters=config.frozen_parameters,
        unfreeze_steps=unfreeze_steps(config, steps_per_epoch),
        batch_norm=config.batch_norm,
        skip_non_finite=config.non_finite == "skip",
    )


def _keep_frozen(
    is_frozen: Any, batch_norm: BatchNormMode, state: TrainState, new_state: TrainState
) -> TrainState:
    """Returns the new state with what is frozen out of the old one."""

    # Adding a zero update would turn -0.0 into 0.0.
    def keep(old, new):
        params = jax.tree.map(
            lambda frozen, old, new: old if frozen else new,
            is_frozen,
            old["params"],
            new["params"],
        )
        kept = old if batch_norm == "frozen" else new
        return {"params": params, "batch_stats": kept["batch_stats"]}

    new_state = new_state.replace(**keep(state.variables, new_state.variables))
    if state.average:
        new_state = new_state.replace(average=keep(state.average, new_state.average))
    return new_state


def _skip_unless(
    is_good: jax.Array, state: TrainState, new_state: TrainState
) -> TrainState:
    """Returns the new state, or the old one a step further."""
    chosen = jax.tree.map(
        functools.partial(jnp.where, is_good),
        new_state.replace(loss_scale=None),
        state.replace(step=new_state.step, loss_scale=None),
    )
    if state.loss_scale is None:
        return chosen
    return chosen.replace(loss_scale=state.loss_scale.after(is_good))
