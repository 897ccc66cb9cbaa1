"""Evaluation: a pure step that sums, and the metrics of a split from its sums.

This module needs jax, flax, optax and NumPy, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import kernels as K
from cnn_jax.kernels.operands import class_indices
from cnn_jax.training.step.state import TrainState

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]

LossFn = Callable[[jax.Array, jax.Array], jax.Array]
"""Takes logits `(n, classes)` and a batch's labels; returns one loss per example."""

MetricFns = Mapping[str, LossFn]
"""More to report of a split, by name: likewise one number per example."""

RESERVED = ("loss", "accuracy", "top5_accuracy", "calibration_error", "num_examples")
"""Names of `evaluation_metrics`, which no metric of a caller's own may have."""

TOP = 5
"""Guesses that top-5 accuracy grants."""

NUM_BINS = 15
"""Equal bins of confidence, (0, 1/15] to (14/15, 1], as in Guo et al. 2017."""


def eval_step(
    state: TrainState,
    batch: Batch,
    *,
    loss_fn: LossFn | None = None,
    metric_fns: MetricFns | None = None,
) -> Metrics:
    """Evaluates a batch, of which some examples may be padding.

    Args:
      state: The state whose `evaluated_variables` are used.
      batch: `{"image", "label"}` as in `train_step`, and optionally `"mask"`: `(n,)`,
        1.0 for an example that counts and 0.0 for padding.
      loss_fn: Logits and labels to one loss per example; None for softmax
        cross-entropy.
      metric_fns: More to sum, by name: likewise one number per example.

    Returns:
      Sums over the examples that count, named and shaped as `zero_sums`. Add them over
      batches, then see `evaluation_metrics`.

    Raises:
      ValueError: If a loss or a metric is not one number per example.
    """
    logits = state.apply_fn(state.evaluated_variables, batch["image"], train=False)
    mask = batch.get("mask")
    return logit_sums(
        logits, batch["label"], mask, loss_fn=loss_fn, metric_fns=metric_fns
    )


def logit_sums(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array | None = None,
    *,
    loss_fn: LossFn | None = None,
    metric_fns: MetricFns | None = None,
) -> Metrics:
    """Returns the sums of `eval_step` for a batch whose logits are known.

    Args:
      logits: `(n, classes)`.
      labels: As in `train_step`.
      mask: `(n,)`, 1.0 for an example that counts; None if all do.
      loss_fn: As for `eval_step`.
      metric_fns: As for `eval_step`.

    Raises:
      ValueError: As `eval_step`.
    """
    losses = losses_of(loss_fn or K.softmax_cross_entropy, logits, labels)
    losses = losses.astype(jnp.float32)
    counts = (jnp.ones(losses.shape) if mask is None else mask) > 0
    correct = counts & is_correct(logits, labels)
    confidence = jnp.max(jax.nn.softmax(logits.astype(jnp.float32)), axis=-1)
    # A padded example may give anything: zero times NaN would be NaN.
    losses, confidence = (jnp.where(counts, each, 0.0) for each in (losses, confidence))
    in_bin = counts[:, None] & _bins(confidence)
    sums = {
        "loss": jnp.sum(losses),
        "correct": _number(correct),
        "count": _number(counts),
        "bin_count": _number(in_bin),
        "bin_correct": _number(in_bin & correct[:, None]),
        "bin_confidence": jnp.sum(jnp.where(in_bin, confidence[:, None], 0.0), axis=0),
    }
    if logits.shape[-1] >= TOP:
        found = jax.lax.top_k(logits, TOP)[1] == _classes(labels)[:, None]
        sums["top5_correct"] = _number(counts & jnp.any(found, axis=-1))
    for name, metric_fn in (metric_fns or {}).items():
        values = losses_of(metric_fn, logits, labels, name=f"metrics[{name!r}]")
        sums[f"metric/{name}"] = jnp.sum(
            jnp.where(counts, values.astype(jnp.float32), 0.0)
        )
    return sums


def losses_of(
    loss_fn: LossFn, logits: jax.Array, labels: jax.Array, *, name: str = "loss_fn"
) -> jax.Array:
    """Calls a loss function, and checks that it returns one loss per example.

    Raises:
      ValueError: If it returns something else, such as their mean.
    """
    losses = loss_fn(logits, labels)
    is_array = hasattr(losses, "shape") and hasattr(losses, "dtype")
    if not is_array or losses.shape != logits.shape[:1] or losses.dtype == jnp.bool_:
        found = f"a {type(losses).__name__}"
        if is_array:
            found = f"{losses.dtype}{[*losses.shape]}"
        is_mean = is_array and losses.shape == ()
        hint = "; leave out the mean over the batch" if is_mean else ""
        raise ValueError(
            f"{name}: got {found} for logits {[*logits.shape]} and labels "
            f"{[*labels.shape]}, expected one number per example, "
            f"{[*logits.shape[:1]]}{hint}."
        )
    return losses


def zero_sums(num_classes: int, metric_fns: MetricFns | None = None) -> Metrics:
    """Returns the zeros that the sums of `eval_step` start from.

    Args:
      num_classes: The number of logits.
      metric_fns: As for `eval_step`.

    Returns:
      Zeros: the scalars `"loss"`, `"correct"`, `"count"` and, from five classes on,
      `"top5_correct"`; and `"bin_count"`, `"bin_correct"`, `"bin_confidence"`, `(15,)`
      each, sums over the examples whose confidence falls into a bin. Loss and
      confidence are float32, the rest int32: a float32 counts up to 2^24 alone. And
      `"metric/NAME"`, float32, for each of `metric_fns`.
    """
    top = {"top5_correct": jnp.zeros((), jnp.int32)} if num_classes >= TOP else {}
    return {
        "loss": jnp.zeros((), jnp.float32),
        "correct": jnp.zeros((), jnp.int32),
        "count": jnp.zeros((), jnp.int32),
        **top,
        "bin_count": jnp.zeros((NUM_BINS,), jnp.int32),
        "bin_correct": jnp.zeros((NUM_BINS,), jnp.int32),
        "bin_confidence": jnp.zeros((NUM_BINS,), jnp.float32),
        **{f"metric/{name}": jnp.zeros((), jnp.float32) for name in metric_fns or {}},
    }


def evaluation_metrics(sums: Mapping[str, Any]) -> dict[str, float]:
    """Turns the sums of `eval_step` over a split into what is reported.

    The expected calibration error (Guo et al. 2017, "On Calibration of Modern Neural
    Networks") is the mean over examples of |accuracy - mean confidence| in the bin of
    their confidence: `sum over bins |correct - confidence| / count`.

    Args:
      sums: Sums over all batches, on the host.

    Returns:
      `{"loss", "accuracy", "top5_accuracy", "calibration_error", "num_examples"}`; no
      `"top5_accuracy"` for fewer than five classes. And the mean of each metric of the
      caller's own, by its name.
    """
    count = float(sums["count"])
    gaps = np.abs(np.subtract(sums["bin_correct"], sums["bin_confidence"]))
    metrics = {
        "loss": float(sums["loss"]) / count,
        "accuracy": float(sums["correct"]) / count,
        "calibration_error": float(gaps.sum()) / count,
        "num_examples": int(count),
    }
    if "top5_correct" in sums:
        metrics["top5_accuracy"] = float(sums["top5_correct"]) / count
    for key, total in sums.items():
        if key.startswith("metric/"):
            metrics[key.removeprefix("metric/")] = float(total) / count
    return metrics


def is_correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns which examples' greatest logit is that of the label, the likeliest one.

    Args:
      logits: `(n, classes)`.
      labels: `(n,)` integers or `(n, classes)` probabilities.
    """
    return jnp.argmax(logits, axis=-1) == _classes(labels)


def _classes(labels: jax.Array) -> jax.Array:
    return class_indices(labels) if labels.ndim == 1 else jnp.argmax(labels, axis=-1)


def _number(holds: jax.Array) -> jax.Array:
    """Counts along the first axis."""
    return jnp.sum(holds, axis=0, dtype=jnp.int32)


def _bins(confidence: jax.Array) -> jax.Array:
    """Returns `(n, NUM_BINS)`: true in the bin of each confidence, whose end it has."""
    index = jnp.ceil(confidence * NUM_BINS) - 1
    index = jnp.clip(index, 0, NUM_BINS - 1)
    return index[:, None] == jnp.arange(NUM_BINS)[None]
