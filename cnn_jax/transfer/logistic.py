"""Multinomial logistic regression: what is minimised, in which coordinates, and how.

With features x_i, labels y_i, logits x_i W + b and the mean over examples, what is
minimised is

    L(W, b) = mean_i cross_entropy(x_i W + b, y_i) + l2 / 2 |W|^2.

The bias is not penalised. For l2 > 0 the minimum is unique in W and finite, also where
the classes can be separated; the loss does not see a shift common to all biases, and
they sum to 0 as they start. scikit-learn's `C` is 1 / (l2 n).

Pooled features are of very different sizes and far from 0, which makes L a long narrow
valley. So the steps are taken in other coordinates: with the features' means m and
variances v, and D the diagonal of 1 / sqrt(v + l2),

    W = D V,    b = c - m W,    x W + b = (x - m) D V + c.

It is the same function of the same model, and in no entry of V is it more curved than
(v / 2 + l2) / (v + l2) < 1. Gradients are measured there, so that a tolerance means the
same for features of any size.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax


@jax.jit
def scale(features, l2):
    """Returns (x - m) D `(n, d)`, m `(d,)` and D's diagonal `(d,)`."""
    means = jnp.mean(features, axis=0)
    centred = features - means[None, :]
    total = jnp.mean(jnp.square(centred), axis=0) + l2
    # A feature that never changes says nothing; without a penalty it has no scale.
    factors = jnp.where(total > 0, jax.lax.rsqrt(jnp.where(total > 0, total, 1)), 0)
    return centred * factors[None, :], means, factors


def product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Multiplies matrices or vectors."""
    # In full float32 where a GPU or TPU would round the factors.
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def loss(
    parameters: Mapping[str, jax.Array],
    scaled: jax.Array,
    labels: jax.Array,
    factors: jax.Array,
    l2: jax.typing.ArrayLike,
) -> jax.Array:
    """Returns L of V and c, `{"kernel": V, "bias": c}`."""
    kernel, bias = parameters["kernel"], parameters["bias"]
    losses = optax.softmax_cross_entropy_with_integer_labels(
        product(scaled, kernel) + bias[None, :], labels
    )
    penalty = jnp.sum(jnp.square(factors[:, None] * kernel))
    return jnp.mean(losses) + 0.5 * l2 * penalty


loss_and_gradient: Any = jax.jit(jax.value_and_grad(loss))
"""Returns L and its gradient, for the arguments of `loss`."""


def largest_entry(gradient: Any) -> jax.Array:
    """Returns the magnitude of a tree's largest entry."""
    return jnp.max(jnp.stack([jnp.max(jnp.abs(g)) for g in jax.tree.leaves(gradient)]))


@jax.jit
def minimize_by_lbfgs(start, examples, tolerance, max_iterations):
    """Returns the parameters and the number of iterations."""
    optimizer = optax.lbfgs()

    def loss_fn(parameters):
        return loss(parameters, *examples)

    value_and_grad = optax.value_and_grad_from_state(loss_fn)

    def advance(carry):
        parameters, state, _, step = carry
        value, gradient = value_and_grad(parameters, state=state)
        updates, state = optimizer.update(
            gradient,
            state,
            parameters,
            value=value,
            grad=gradient,
            value_fn=loss_fn,
        )
        moved = largest_entry(updates) > 0
        return optax.apply_updates(parameters, updates), state, moved, step + 1

    def is_unfinished(carry):
        _, state, moved, step = carry
        # The gradient where the line search ended; there is none before the first.
        gradient = optax.tree.get(state, "grad")
        steep = (step == 0) | (largest_entry(gradient) > tolerance)
        # Where rounding hides every descent, the line search stays.
        return steep & moved & (step < max_iterations)

    carry = start, optimizer.init(start), jnp.array(True), jnp.array(0)
    parameters, _, _, step = jax.lax.while_loop(is_unfinished, advance, carry)
    return parameters, step


@functools.partial(jax.jit, static_argnames=("epochs", "batch_size"))
def minimize_by_sgd(start, examples, key, learning_rate, momentum, epochs, batch_size):
    """Returns the parameters and the number of steps."""
    scaled, labels, factors, l2 = examples
    num_batches = len(scaled) // batch_size
    schedule = optax.cosine_decay_schedule(learning_rate, epochs * num_batches)
    optimizer = optax.sgd(schedule, momentum, nesterov=True)

    def advance(carry, chosen):
        parameters, state = carry
        gradient = jax.grad(loss)(
            parameters, scaled[chosen], labels[chosen], factors, l2
        )
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(parameters, updates), state), None

    def run_epoch(carry, epoch):
        order = jax.random.permutation(jax.random.fold_in(key, epoch), len(scaled))
        batches = order[: num_batches * batch_size].reshape(num_batches, batch_size)
        return jax.lax.scan(advance, carry, batches)

    carry = start, optimizer.init(start)
    (parameters, _), _ = jax.lax.scan(run_epoch, carry, jnp.arange(epochs))
    return parameters, epochs * num_batches
