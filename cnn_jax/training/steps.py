"""One step of training and of evaluation: pure functions, jit stands outside.

This module needs jax, flax, optax and NumPy, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from cnn_jax import kernels as K
from cnn_jax.training.state import TrainState

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


def train_step(
    state: TrainState, batch: Batch, key: jax.Array, *, label_smoothing: float = 0.0
) -> tuple[TrainState, Metrics]:
    """Takes one step along the gradient of the batch's mean loss.

    Args:
      state: The state before.
      batch: `{"image": (n, h, w, c) normalised, "label": (n,) integers or (n, classes)
        probabilities}`.
      key: The step's key, for what the model draws at random.
      label_smoothing: Weight of the uniform distribution in the targets.

    Returns:
      The state after, and `{"loss", "accuracy"}` of the batch: float32 scalars, taken
      before the update.
    """

    def loss_fn(params):
        logits, updates = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            batch["image"],
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        losses = K.softmax_cross_entropy(
            logits, batch["label"], label_smoothing=label_smoothing
        )
        return jnp.mean(losses), (logits, updates)

    (loss, (logits, updates)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
        state.params
    )
    metrics = {
        "loss": loss.astype(jnp.float32),
        "accuracy": jnp.mean(_is_correct(logits, batch["label"]), dtype=jnp.float32),
    }
    batch_stats = updates.get("batch_stats", state.batch_stats)
    return state.apply_gradients(gradients, batch_stats), metrics


def eval_step(state: TrainState, batch: Batch) -> Metrics:
    """Evaluates a batch, of which some examples may be padding.

    Args:
      state: The state whose parameters and running statistics are used.
      batch: `{"image", "label"}` as in `train_step`, and optionally `"mask"`: `(n,)`,
        1.0 for an example that counts and 0.0 for padding.

    Returns:
      Sums over the examples that count, float32 scalars: `"loss"`, `"correct"` and
      `"count"`. Add them over batches, then divide by the count.
    """
    logits = state.apply_fn(state.variables, batch["image"], train=False)
    losses = K.softmax_cross_entropy(logits, batch["label"]).astype(jnp.float32)
    mask = batch.get("mask", jnp.ones(losses.shape, jnp.float32))
    correct = _is_correct(logits, batch["label"]).astype(jnp.float32)
    return {
        # A padded example may give any loss: zero times NaN would be NaN.
        "loss": jnp.sum(jnp.where(mask > 0, losses, 0.0)),
        "correct": jnp.sum(correct * mask),
        "count": jnp.sum(mask),
    }


def _is_correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    if labels.ndim == logits.ndim:
        labels = jnp.argmax(labels, axis=-1)
    return jnp.argmax(logits, axis=-1) == labels
