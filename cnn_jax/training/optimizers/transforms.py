"""Transformations of an optimizer's updates, beyond those of optax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cnn_jax import trees


def in_wide_dtype(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Has an optimizer see gradients and parameters, and keep its state, in float32.

    Moments are sums of small steps, and norms sums of squares; optax forms them in the
    dtypes of what it is given. Leaves of float32 and float64 stay as they are.
    """

    def init(params):
        return optimizer.init(trees.wide(params))

    def update(updates, state, params=None):
        return optimizer.update(trees.wide(updates), state, trees.wide(params))

    return optax.GradientTransformation(init, update)


class AfterState(NamedTuple):
    """The state of `after`: the number of updates so far, and what waits."""

    count: jax.Array  # type: ignore[assignment]  # hides what tuples have
    inner: Any


def after(
    optimizer: optax.GradientTransformation, first: int
) -> optax.GradientTransformation:
    """Has an optimizer do nothing, bit by bit, in its first updates."""

    def init(params):
        return AfterState(jnp.zeros((), jnp.int32), optimizer.init(params))

    def update(updates, state, params=None):
        begun = state.count >= first
        updates, inner = optimizer.update(updates, state.inner, params)
        # Adding 0.0 would turn -0.0 into 0.0; adding -0.0 changes nothing.
        updates = jax.tree.map(
            lambda leaf: jnp.where(begun, leaf, jnp.asarray(-0.0, leaf.dtype)), updates
        )
        inner = jax.tree.map(
            lambda new, old: jnp.where(begun, new, old), inner, state.inner
        )
        return updates, AfterState(state.count + 1, inner)

    return optax.GradientTransformation(init, update)


class StartState(NamedTuple):
    """The state of `decay_to_start`: the number of updates so far, and the start."""

    count: jax.Array  # type: ignore[assignment]  # hides what tuples have
    start: Any


def decay_to_start(factor: optax.Schedule) -> optax.GradientTransformation:
    """Adds a multiple of how far the parameters are from where they were at first."""

    def init(params):
        # A copy: a donated state must not hold one buffer twice.
        return StartState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates, state, params):
        by = factor(state.count)
        updates = jax.tree.map(
            lambda leaf, now, start: leaf + (by * (now - start)).astype(leaf.dtype),
            updates,
            params,
            state.start,
        )
        return updates, StartState(state.count + 1, state.start)

    return optax.GradientTransformation(init, update)


def scale_groups(
    groups: Sequence[tuple[str, float]],
) -> optax.GradientTransformation:
    """Multiplies updates, which are linear in the learning rate, by their factor."""

    def update(updates, state, params=None):
        factors = trees.choose_by_path(updates, groups, 1.0, allow_unmatched=True)
        return jax.tree.map(lambda each, by: each * by, updates, factors), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def scale_depths(
    decay: float, depths: Mapping[str, int]
) -> optax.GradientTransformation:
    """Multiplies updates by a factor for each stage between them and the head."""

    def update(updates, state, params=None):
        scaled = [
            leaf * decay ** depths[path]
            for path, leaf in trees.named_leaves(updates).items()
        ]
        return jax.tree.unflatten(jax.tree.structure(updates), scaled), state

    return optax.GradientTransformation(optax.init_empty_state, update)
