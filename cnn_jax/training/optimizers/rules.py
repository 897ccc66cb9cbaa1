"""The update rules that a configuration chooses from, out of optax's parts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import optax
import optax.contrib

from cnn_jax import trees
from cnn_jax.training.config import TrainConfig

TRUST_COEFFICIENT = 1e-3
"""Of LARS: the share of a parameter's norm that a step at learning rate 1 moves it."""

MUON_RMS = 0.2
"""The root mean square of Muon's updates at learning rate 1: about AdamW's."""

_SECOND_MOMENT_DECAY = {"rmsprop": 0.9}
_EPSILON = {"rmsprop": 1e-3, "lamb": 1e-6}

Mask = Callable[[Any], Any]
"""From a tree of parameters to one of booleans."""


def matching(patterns: Sequence[str]) -> Mask:
    """Returns the mask of the parameters whose path a pattern matches."""
    # optax shows parts of a tree to what it partitions; the whole is checked in `init`.
    return lambda tree: trees.path_mask(tree, patterns, allow_unmatched=True)


def among(paths: Collection[str]) -> Mask:
    """Returns the mask of the parameters with these paths."""

    def mask(tree):
        names = trees.named_leaves(tree)
        structure = jax.tree.structure(tree)
        return jax.tree.unflatten(structure, [name in paths for name in names])

    return mask


def _sgd(config: TrainConfig, schedule: optax.Schedule, is_decayed: Mask):
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=is_decayed),
        # With momentum 0 there is no trace to keep, nor anything to look ahead to.
        optax.sgd(
            schedule,
            momentum=config.momentum or None,
            nesterov=config.nesterov and config.momentum > 0,
        ),
    )


def _adamw(config: TrainConfig, schedule: optax.Schedule, is_decayed: Mask):
    second_moment_decay, epsilon = _second_moment(config)
    return optax.adamw(
        schedule,
        b1=config.momentum,
        b2=second_moment_decay,
        eps=epsilon,
        weight_decay=config.weight_decay,
        mask=is_decayed,
        nesterov=config.nesterov,
    )


def _lamb(config: TrainConfig, schedule: optax.Schedule, is_decayed: Mask):
    second_moment_decay, epsilon = _second_moment(config)
    # optax.lamb scales norms and biases too, which the paper's own code does not.
    return optax.chain(
        optax.scale_by_adam(
            b1=config.momentum,
            b2=second_moment_decay,
            eps=epsilon,
            nesterov=config.nesterov,
        ),
        optax.add_decayed_weights(config.weight_decay, mask=is_decayed),
        optax.masked(optax.scale_by_trust_ratio(), matching(config.decayed_parameters)),
        optax.scale_by_learning_rate(schedule),
    )


def _lars(config: TrainConfig, schedule: optax.Schedule, is_decayed: Mask):
    return optax.lars(
        schedule,
        weight_decay=config.weight_decay,
        weight_decay_mask=is_decayed,
        trust_coefficient=TRUST_COEFFICIENT,
        trust_ratio_mask=matching(config.decayed_parameters),
        momentum=config.momentum,
        nesterov=config.nesterov,
    )


def _rmsprop(config: TrainConfig, schedule: optax.Schedule, is_decayed: Mask):
    second_moment_decay, epsilon = _second_moment(config)
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=is_decayed),
        optax.rmsprop(
            schedule,
            decay=second_moment_decay,
            eps=epsilon,
            initial_scale=1.0,
            eps_in_sqrt=True,
            momentum=config.momentum or None,
            nesterov=config.nesterov and config.momentum > 0,
        ),
    )


def _muon(config: TrainConfig, schedule: optax.Schedule, is_decayed: Mask):
    is_muon = matching(config.muon_parameters)

    def labels(params):
        return jax.tree.map(
            lambda chosen, leaf: "muon" if chosen and _is_matrix(leaf) else "adamw",
            is_muon(params),
            params,
        )

    orthogonalized = optax.contrib.muon(
        schedule,
        beta=config.momentum,
        weight_decay=config.weight_decay,
        weight_decay_mask=is_decayed,
        nesterov=config.nesterov,
        consistent_rms=MUON_RMS,
        muon_weight_dimension_numbers=lambda params: jax.tree.map(_as_matrix, params),
    )
    return optax.partition(
        {"muon": orthogonalized, "adamw": _adamw(config, schedule, is_decayed)},
        labels,
    )


RULES = {
    "sgd": _sgd,
    "adamw": _adamw,
    "lamb": _lamb,
    "lars": _lars,
    "rmsprop": _rmsprop,
    "muon": _muon,
}
"""By the configuration's `optimizer`: `(config, schedule, is_decayed)` to optax."""


def _second_moment(config: TrainConfig) -> tuple[float, float]:
    """Returns the second moment's decay, and epsilon."""
    decay, epsilon = config.second_moment_decay, config.epsilon
    if decay is None:
        decay = _SECOND_MOMENT_DECAY.get(config.optimizer, 0.999)
    if epsilon is None:
        epsilon = _EPSILON.get(config.optimizer, 1e-8)
    return decay, epsilon


def _is_matrix(leaf: jax.Array) -> bool:
    return leaf.ndim == 2 or (leaf.ndim > 2 and leaf.shape[-2] > 1)


def _as_matrix(leaf: jax.Array) -> optax.contrib.MuonDimensionNumbers:
    last = leaf.ndim - 1
    return optax.contrib.MuonDimensionNumbers(tuple(range(last)), last)
