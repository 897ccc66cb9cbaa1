"""One step of training: a pure function, jit stands outside.

This module needs jax, flax, optax and NumPy, nothing else.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp

from cnn_jax import kernels as K
from cnn_jax import trees
from cnn_jax.layers import frozen_statistics
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.config.transfer import BatchNormMode
from cnn_jax.training.optimizers.freezing import (
    UnfreezeSteps,
    first_steps,
    frozen_mask,
    unfreeze_steps,
)
from cnn_jax.training.step.evaluation import Batch, Metrics, is_correct
from cnn_jax.training.step.state import TrainState

Gradients = tuple[Any, Metrics, Any]
"""The gradients, the metrics and the batch statistics after the forward pass."""


def train_step(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    *,
    label_smoothing: float = 0.0,
    auxiliary_weight: float = 0.0,
    accumulate_steps: int = 1,
    sam_radius: float = 0.0,
    ema_decay: float | None = None,
    frozen_parameters: Sequence[str] = (),
    unfreeze_steps: UnfreezeSteps = (),
    batch_norm: BatchNormMode = "train",
    skip_non_finite: bool = False,
) -> tuple[TrainState, Metrics]:
    """Takes one step along the gradient of the batch's mean loss.

    With `auxiliary_weight` a, what is minimised is the mean loss of the logits plus a
    times that of each auxiliary head, the endpoints `"aux1"`, `"aux2"`, ... (Szegedy et
    al. 2014, "Going Deeper with Convolutions", section 5, with a = 0.3).

    With `accumulate_steps` k the batch is worked off in k parts, each of every k-th
    example (so that parts stay spread over devices), one after the other: the memory of
    one part, the mean of their gradients, one update. A network without batch
    normalisation gets the update of the whole batch; batch statistics are those of the
    parts, one after the other. A step thus stays an update whatever k is, and
    schedules, averages and checkpoints need not know of it.

    With `sam_radius` rho the gradient g at the parameters w gives way to that at
    `w + rho g / |g|`, of the same batch and with the same random choices (Foret et al.
    2021, "Sharpness-Aware Minimization", equation 3); batch statistics and metrics are
    those of the first pass. |g| is the norm over all parameters that move.

    With a `LossScale` in the state, or with `skip_non_finite`, the update (parameters,
    optimizer, statistics and averages) is skipped when the loss or a gradient is not
    finite; the step counts all the same.

    Args:
      state: The state before.
      batch: `{"image": (n, h, w, c) normalised, "label": (n,) integers or (n, classes)
        probabilities}`.
      key: The step's key, for what the model draws at random.
      label_smoothing: Weight of the uniform distribution in the targets, of auxiliary
        heads too.
      auxiliary_weight: a; 0 for a network that is called without `endpoints`, which not
        all can return. Auxiliary heads have no gradient then.
      accumulate_steps: k, a divisor of n.
      sam_radius: rho; 0 for the gradient at w.
      ema_decay: Of the state's averages; None for a state that has none.
      frozen_parameters: Patterns on the paths of parameters that stay as they are, bit
        by bit, as do their averages; those of the optimizer.
      unfreeze_steps: Pairs of a pattern and the number of steps during which its
        parameters have no gradient; those of the optimizer, which then leaves them as
        they are. The first pair that matches counts.
      batch_norm: `"train"`; `"adapt"`, where the scales and biases of batch
        normalisation are frozen too; or `"frozen"`, where in addition running
        statistics take the place of the batch's and do not move. The optimizer's.
      skip_non_finite: Whether to skip updates also without a loss scale.

    Returns:
      The state after, and of the batch, taken before the update, `{"loss", "accuracy",
      "skipped"}`, float32 scalars of which the last says whether the update was (1.0)
      or was not (0.0), and `"bad_leaf"`, int32: the first leaf of the gradients that is
      not finite, by its place among the leaves of `params`, or -1. `loss` is that of
      the logits, without the auxiliary heads', so that it compares with the loss of an
      evaluation; where the whole is not finite, it is not either.

    Raises:
      ValueError: If k does not divide n, a pattern matches nothing, `ema_decay` does
        not fit the state, `auxiliary_weight` is not 0 for a network that has no
        auxiliary heads, or statistics are frozen of a network that moves them
        nevertheless.
    """
    is_frozen = frozen_mask(
        state.params, state.batch_stats, frozen_parameters, batch_norm
    )
    first = first_steps(state.params, unfreeze_steps)

    def differentiate(params):
        gradients, metrics, batch_stats = _accumulate(
            functools.partial(
                _differentiate,
                state,
                is_frozen,
                label_smoothing,
                auxiliary_weight,
                batch_norm,
                params,
            ),
            batch,
            key,
            state.batch_stats,
            accumulate_steps,
        )
        gradients = jax.tree.map(
            lambda leaf, first: (
                jnp.where(state.step >= first, leaf, 0) if first else leaf
            ),
            gradients,
            first,
        )
        return gradients, metrics, batch_stats

    gradients, metrics, batch_stats = differentiate(state.params)
    if sam_radius:
        uphill = _ascend(state.params, gradients, sam_radius)
        gradients, _, _ = differentiate(uphill)
    new_state = state.apply_gradients(gradients, batch_stats, ema_decay=ema_decay)
    new_state = _keep_frozen(is_frozen, batch_norm, state, new_state)
    metrics["bad_leaf"] = trees.first_bad_leaf(gradients)
    is_good = (metrics["bad_leaf"] < 0) & jnp.isfinite(metrics["loss"])
    if state.loss_scale is None and not skip_non_finite:
        return new_state, {**metrics, "skipped": jnp.zeros_like(metrics["loss"])}
    metrics["skipped"] = 1.0 - is_good.astype(jnp.float32)
    new_state = jax.tree.map(
        functools.partial(jnp.where, is_good),
        new_state.replace(loss_scale=None),
        state.replace(step=new_state.step, loss_scale=None),
    )
    if state.loss_scale is not None:
        new_state = new_state.replace(loss_scale=state.loss_scale.after(is_good))
    return new_state, metrics


def step_options(
    config: TrainConfig, steps_per_epoch: int | None = None, model: Any = None
) -> dict[str, Any]:
    """Returns what `train_step` takes of a configuration.

    Args:
      config: The run's configuration.
      steps_per_epoch: How many steps an epoch has; needed with `unfreeze_epochs`.
      model: The network. `auxiliary_weight` is for those alone whose attribute
        `aux_heads` is true; others may not even know `endpoints`.
    """
    options = {
        "label_smoothing": config.label_smoothing,
        "accumulate_steps": config.accumulate_steps,
        "sam_radius": config.sam_radius,
        "ema_decay": config.ema_decay,
        "frozen_parameters": config.frozen_parameters,
        "unfreeze_steps": unfreeze_steps(config, steps_per_epoch),
        "batch_norm": config.batch_norm,
        "skip_non_finite": config.non_finite == "skip",
    }
    if getattr(model, "aux_heads", False):
        options["auxiliary_weight"] = config.auxiliary_weight
    return options


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


def _differentiate(
    state: TrainState,
    is_frozen: Any,
    label_smoothing: float,
    auxiliary_weight: float,
    batch_norm: BatchNormMode,
    params: Any,
    batch: Batch,
    key: jax.Array,
    batch_stats: Any,
) -> Gradients:
    """Runs the network forward and backward on a batch, or a part of one."""
    scale = 1.0 if state.loss_scale is None else state.loss_scale.value

    def mean_loss(logits):
        return jnp.mean(
            K.softmax_cross_entropy(
                logits, batch["label"], label_smoothing=label_smoothing
            )
        )

    def loss_fn(params):
        params = jax.tree.map(
            lambda frozen, leaf: jax.lax.stop_gradient(leaf) if frozen else leaf,
            is_frozen,
            params,
        )
        variables = {"params": params, "batch_stats": batch_stats}
        apply = _apply_frozen if batch_norm == "frozen" else _apply
        if not auxiliary_weight:
            logits, updates = apply(state, variables, batch["image"], key)
            loss = mean_loss(logits)
            return loss * scale, (loss, logits, updates)
        (logits, named), updates = apply(
            state, variables, batch["image"], key, endpoints=True
        )
        loss = mean_loss(logits)
        heads = _auxiliary_logits(named, auxiliary_weight)
        whole = loss + auxiliary_weight * sum(map(mean_loss, heads))
        # All that guards against numbers that are not finite looks at the metric.
        loss = jnp.where(jnp.isfinite(whole), loss, whole)
        return whole * scale, (loss, logits, updates)

    gradients, (loss, logits, updates) = jax.grad(loss_fn, has_aux=True)(params)
    if state.loss_scale is not None:
        gradients = jax.tree.map(lambda leaf: leaf / scale, gradients)
    metrics = {
        "loss": loss.astype(jnp.float32),
        "accuracy": jnp.mean(is_correct(logits, batch["label"]), dtype=jnp.float32),
    }
    return gradients, metrics, updates.get("batch_stats", batch_stats)


def _auxiliary_logits(named: Mapping[str, jax.Array], weight: float) -> list[jax.Array]:
    """Returns those endpoints that are auxiliary heads, of which there must be some."""
    heads = [logits for name, logits in named.items() if re.fullmatch(r"aux\d+", name)]
    if not heads:
        raise ValueError(
            f"auxiliary_weight: got {weight} for a network with the endpoints "
            f"{list(named)}; expected 0, as for all without auxiliary heads 'aux1', "
            "'aux2', ..., and the attribute aux_heads to be False."
        )
    return heads


def _apply(
    state: TrainState, variables: Any, images: jax.Array, key: jax.Array, **options: Any
):
    return state.apply_fn(
        variables,
        images,
        train=True,
        rngs={"dropout": key},
        mutable=["batch_stats"],
        **options,
    )


def _apply_frozen(
    state: TrainState, variables: Any, images: jax.Array, key: jax.Array, **options: Any
):
    """Runs the network in training, but for its running statistics."""
    try:
        with frozen_statistics():
            output = state.apply_fn(
                variables, images, train=True, rngs={"dropout": key}, **options
            )
    except flax.errors.ModifyScopeVariableError as error:
        raise ValueError(
            "batch_norm: got 'frozen' for a network with other batch normalisation "
            "than cnn_jax.layers.BatchNorm, which moves its statistics in training "
            f"whatever is said around it: {error}"
        ) from error
    return output, {}


def _accumulate(
    differentiate: Callable[[Batch, jax.Array, Any], Gradients],
    batch: Batch,
    key: jax.Array,
    batch_stats: Any,
    num_parts: int,
) -> Gradients:
    """Returns the mean gradients and metrics of a batch's parts."""
    if num_parts == 1:
        return differentiate(batch, key, batch_stats)
    size = batch["image"].shape[0]
    if size % num_parts:
        raise ValueError(
            f"accumulate_steps: got {num_parts} for a batch of {size}, expected a "
            "divisor."
        )
    parts = {
        name: array.reshape(size // num_parts, num_parts, *array.shape[1:]).swapaxes(
            0, 1
        )
        for name, array in batch.items()
    }

    def add_part(sums, numbered):
        number, part = numbered
        *found, batch_stats = differentiate(
            part, jax.random.fold_in(key, number), sums[-1]
        )
        found = jax.tree.map(jnp.add, trees.wide(tuple(found)), sums[:-1])
        return (*found, batch_stats), None

    first = jax.tree.map(lambda array: array[0], parts)
    shapes = jax.eval_shape(differentiate, first, key, batch_stats)
    zeros = trees.wide(
        jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes[:-1])
    )
    start = jax.tree.map(_as_varying_as, (*zeros, batch_stats), shapes)
    sums, _ = jax.lax.scan(add_part, start, (jnp.arange(num_parts), parts))
    means = jax.tree.map(lambda leaf: leaf / num_parts, sums[:-1])
    return *trees.as_dtypes_of(shapes[:-1], means), sums[-1]


def _as_varying_as(array: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
    """Marks an array as differing between devices where another does.

    Inside `jax.shard_map`, what a scan carries must keep its type.
    """
    missing = jax.typeof(like).manual_axis_type.varying - (
        jax.typeof(array).manual_axis_type.varying
    )
    axes = tuple(sorted(missing))
    return jax.lax.pcast(array, axes, to="varying") if axes else array


def _ascend(params: Any, gradients: Any, radius: float) -> Any:
    """Returns the parameters that far along the gradients, which may all be zero."""
    gradients = trees.wide(gradients)
    squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradients)]
    norm = jnp.sqrt(sum(squares))
    factor = radius / jnp.where(norm > 0, norm, 1.0)
    return jax.tree.map(
        lambda leaf, gradient: (leaf + factor * gradient).astype(leaf.dtype),
        params,
        gradients,
    )
