"""The gradient of a batch's mean loss, and wrappers around the function that takes it.

`gradient_function` makes the function; `accumulate` (microbatches), `hold_back`
(parameters that move later) and `sharpen` (sharpness-aware minimisation) each take one
and return one. All are pure.

This module needs jax, flax, optax and NumPy, nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp

from cnn_jax import kernels as K
from cnn_jax import trees
from cnn_jax.kernels.operands import cast_to_varying
from cnn_jax.layers import frozen_statistics
from cnn_jax.training.config.transfer import BatchNormMode
from cnn_jax.training.step.evaluation import (
    Batch,
    LossFn,
    Metrics,
    is_correct,
    losses_of,
)
from cnn_jax.training.step.state import TrainState

Gradients = tuple[Any, Metrics, Any]
"""The gradients, the metrics and the batch statistics after the forward pass."""

GradientFn = Callable[[Any, Any, Batch, jax.Array], Gradients]
"""`(params, batch_stats, batch, key) -> (gradients, metrics, batch_stats)`."""


def gradient_function(
    state: TrainState,
    is_frozen: Any,
    *,
    loss_fn: LossFn | None = None,
    label_smoothing: float = 0.0,
    auxiliary_weight: float = 0.0,
    auxiliary_endpoints: Sequence[str] = (),
    batch_norm: BatchNormMode = "train",
) -> GradientFn:
    """Makes the function that runs a network forward and backward on a batch.

    With `auxiliary_weight` a, what is differentiated is the mean loss of the logits
    plus a times that of each auxiliary head (Szegedy et al. 2014, "Going Deeper with
    Convolutions", section 5, with a = 0.3).

    Args:
      state: What says how the network is applied, and whether the loss is scaled.
      is_frozen: A tree of booleans: the parameters that have no gradient.
      loss_fn: Logits and labels to one loss per example; None for softmax
        cross-entropy.
      label_smoothing: For softmax cross-entropy.
      auxiliary_weight: a.
      auxiliary_endpoints: The names of the auxiliary heads.
      batch_norm: `"frozen"` normalises with the running statistics.
    """
    scale = 1.0 if state.loss_scale is None else state.loss_scale.value
    apply = _apply_frozen if batch_norm == "frozen" else _apply
    if loss_fn is None:
        loss_fn = functools.partial(
            K.softmax_cross_entropy, label_smoothing=label_smoothing
        )

    def mean_loss(logits, labels):
        return jnp.mean(losses_of(loss_fn, logits, labels))

    def scaled_loss(params, batch_stats, batch, key):
        params = jax.tree.map(
            lambda frozen, leaf: jax.lax.stop_gradient(leaf) if frozen else leaf,
            is_frozen,
            params,
        )
        variables = {"params": params, "batch_stats": batch_stats}
        if not auxiliary_weight:
            logits, updates = apply(state, variables, batch["image"], key)
            loss = mean_loss(logits, batch["label"])
            return loss * scale, (loss, logits, updates)
        (logits, named), updates = apply(
            state, variables, batch["image"], key, endpoints=True
        )
        loss = mean_loss(logits, batch["label"])
        heads = _auxiliary_logits(named, auxiliary_endpoints)
        whole = loss + auxiliary_weight * sum(
            mean_loss(head, batch["label"]) for head in heads
        )
        # All that guards against numbers that are not finite looks at the metric.
        loss = jnp.where(jnp.isfinite(whole), loss, whole)
        return whole * scale, (loss, logits, updates)

    def differentiate(params, batch_stats, batch, key):
        gradients, (loss, logits, updates) = jax.grad(scaled_loss, has_aux=True)(
            params, batch_stats, batch, key
        )
        if state.loss_scale is not None:
            gradients = jax.tree.map(lambda leaf: leaf / scale, gradients)
        metrics = {
            "loss": loss.astype(jnp.float32),
            "accuracy": jnp.mean(is_correct(logits, batch["label"]), dtype=jnp.float32),
        }
        return gradients, metrics, updates.get("batch_stats", batch_stats)

    return differentiate


def accumulate(gradient_fn: GradientFn, num_microbatches: int) -> GradientFn:
    """Splits each batch into k microbatches, one after the other.

    Each has every k-th example, so that microbatches stay spread over devices: the
    memory of one of them, the mean of their gradients and metrics. A network without
    batch normalisation gets the gradient of the whole batch; batch statistics are those
    of the microbatches in turn. A step thus stays one update whatever k is, and
    schedules, averages and checkpoints need not know of it.

    Raises:
      ValueError: When called, if k does not divide the batch.
    """
    if num_microbatches == 1:
        return gradient_fn

    def accumulated(params, batch_stats, batch, key):
        parts = _microbatches(batch, num_microbatches)

        def add_part(sums, numbered):
            number, part = numbered
            *found, batch_stats = gradient_fn(
                params, sums[-1], part, jax.random.fold_in(key, number)
            )
            found = jax.tree.map(jnp.add, trees.wide(tuple(found)), sums[:-1])
            return (*found, batch_stats), None

        first = jax.tree.map(lambda array: array[0], parts)
        shapes = jax.eval_shape(gradient_fn, params, batch_stats, first, key)
        zeros = trees.wide(
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes[:-1])
        )
        start = jax.tree.map(_as_varying_as, (*zeros, batch_stats), shapes)
        sums, _ = jax.lax.scan(add_part, start, (jnp.arange(num_microbatches), parts))
        means = jax.tree.map(lambda leaf: leaf / num_microbatches, sums[:-1])
        return *trees.as_dtypes_of(shapes[:-1], means), sums[-1]

    return accumulated


def hold_back(gradient_fn: GradientFn, first: Any, step: jax.Array) -> GradientFn:
    """Zeroes the gradients of parameters that do not move yet.

    Args:
      gradient_fn: The function.
      first: A tree of integers: the number of steps during which each parameter stays.
      step: The number of finished steps.
    """

    def held_back(*operands):
        gradients, metrics, batch_stats = gradient_fn(*operands)
        gradients = jax.tree.map(
            lambda leaf, first: jnp.where(step >= first, leaf, 0) if first else leaf,
            gradients,
            first,
        )
        return gradients, metrics, batch_stats

    return held_back


def sharpen(gradient_fn: GradientFn, radius: float) -> GradientFn:
    """Takes the gradient where the loss is highest nearby, to first order.

    With radius rho the gradient g at the parameters w gives way to that at
    `w + rho g / |g|`, of the same batch and with the same random choices; batch
    statistics and metrics are those of the first pass. |g| is the norm over all
    parameters that move. A radius of 0 changes nothing.

    Source: Foret et al. 2021, "Sharpness-Aware Minimization", equation 3.
    """
    if not radius:
        return gradient_fn

    def sharpened(params, batch_stats, batch, key):
        gradients, metrics, new_stats = gradient_fn(params, batch_stats, batch, key)
        perturbed_params = _ascend(params, gradients, radius)
        gradients, _, _ = gradient_fn(perturbed_params, batch_stats, batch, key)
        return gradients, metrics, new_stats

    return sharpened


def _auxiliary_logits(
    named: Mapping[str, jax.Array], endpoints: Sequence[str]
) -> list[jax.Array]:
    missing = [name for name in endpoints if name not in named]
    if missing:
        raise ValueError(
            f"auxiliary_endpoints: got {missing}, which are not among the network's "
            f"endpoints {list(named)}."
        )
    return [named[name] for name in endpoints]


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


def _microbatches(batch: Batch, number: int) -> dict[str, jax.Array]:
    """Returns the arrays of a batch as `(number, n / number, ...)`."""
    size = batch["image"].shape[0]
    if size % number:
        raise ValueError(
            f"accumulate_steps: got {number} for a batch of {size}, expected a divisor."
        )
    return {
        name: array.reshape(size // number, number, *array.shape[1:]).swapaxes(0, 1)
        for name, array in batch.items()
    }


def _as_varying_as(array: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
    """Marks an array as differing between devices where another does.

    Inside `jax.shard_map`, what a scan carries must keep its type.
    """
    return cast_to_varying(array, jax.typeof(like).manual_axis_type.varying)


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
