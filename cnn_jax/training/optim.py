"""Optimizers, made from a configuration out of optax's parts.

Which parameters something applies to is said by patterns on their paths
(`cnn_jax.trees`), and checked against the whole tree when the state is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def make_optimizer(
    config: TrainConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Makes the optimizer; weight decay touches `config.decayed_parameters` alone.

    With gradients g, moments m and v, learning rate r and decay c:

    - `sgd` adds `c w` to the gradient, so that the decay passes through the momentum
      and the learning rate: L2 regularisation, as in PyTorch's `SGD`.
    - `adamw` subtracts `r c w` from the weight itself (Loshchilov and Hutter 2019),
      untouched by the moments, as in PyTorch's `AdamW`.
    - `lars` (You et al. 2017) is `sgd` whose decayed gradient is first scaled to the
      norm `TRUST_COEFFICIENT |w|`.
    - `lamb` (You et al. 2020) is Adam's direction plus `c w`, scaled to the norm |w|.
      Both scale what is decayed and leave norms and biases at the plain rate.
    - `rmsprop` is TensorFlow's, which EfficientNet was trained with: v starts at 1,
      epsilon stands inside the root, and the momentum gathers `r g / sqrt(v + epsilon)`
      with `c w` in g.
    - `muon` (Jordan et al. 2024) replaces the momentum of each of
      `config.muon_parameters` by a matrix near its orthogonal factor, scaled so that
      AdamW's learning rates and decays fit (Liu et al. 2025). A filter `(*spatial, i,
      o)` is taken as the matrix `(spatial i, o)`. What is no matrix, filters of one
      input channel (depthwise ones) and what no pattern matches go by `adamw`.

    Around these, in this order: gradients are clipped to `maximum_gradient_norm`, then
    come the optimizer with its decay, and the factors of `learning_rate_groups`, which
    apply to the decay as well. `frozen_parameters` have no part in the norm, no state
    and no update.

    Args:
      config: The run's configuration.
      schedule: The learning rate of a step's number; of updates, where loss scaling
        skipped some.

    Returns:
      An optax transformation. Its `init` raises ValueError listing all patterns that
      match no parameter.
    """
    parts = [_UPDATES[config.optimizer](config, schedule)]
    if config.maximum_gradient_norm is not None:
        parts.insert(0, optax.clip_by_global_norm(config.maximum_gradient_norm))
    if config.learning_rate_groups:
        parts.append(_scale_groups(config.learning_rate_groups))
    optimizer = optax.chain(*parts) if len(parts) > 1 else parts[0]
    if config.frozen_parameters:
        optimizer = optax.partition(
            {"trained": optimizer, "frozen": optax.set_to_zero()},
            _labels("frozen", config.frozen_parameters, "trained"),
        )

    def init(params):
        _check_patterns(config, params)
        return optimizer.init(params)

    return optax.GradientTransformation(init, optimizer.update)


def _sgd(config: TrainConfig, schedule: optax.Schedule):
    return optax.chain(
        _coupled_decay(config),
        # With momentum 0 there is no trace to keep, nor anything to look ahead to.
        optax.sgd(
            schedule,
            momentum=config.momentum or None,
            nesterov=config.nesterov and config.momentum > 0,
        ),
    )


def _adamw(config: TrainConfig, schedule: optax.Schedule):
    second_moment_decay, epsilon = _second_moment(config)
    return optax.adamw(
        schedule,
        b1=config.momentum,
        b2=second_moment_decay,
        eps=epsilon,
        weight_decay=config.weight_decay,
        mask=_mask(config.decayed_parameters),
        nesterov=config.nesterov,
    )


def _lamb(config: TrainConfig, schedule: optax.Schedule):
    second_moment_decay, epsilon = _second_moment(config)
    is_decayed = _mask(config.decayed_parameters)
    # optax.lamb scales norms and biases too, which the paper's own code does not.
    return optax.chain(
        optax.scale_by_adam(
            b1=config.momentum,
            b2=second_moment_decay,
            eps=epsilon,
            nesterov=config.nesterov,
        ),
        optax.add_decayed_weights(config.weight_decay, mask=is_decayed),
        optax.masked(optax.scale_by_trust_ratio(), is_decayed),
        optax.scale_by_learning_rate(schedule),
    )


def _lars(config: TrainConfig, schedule: optax.Schedule):
    is_decayed = _mask(config.decayed_parameters)
    return optax.lars(
        schedule,
        weight_decay=config.weight_decay,
        weight_decay_mask=is_decayed,
        trust_coefficient=TRUST_COEFFICIENT,
        trust_ratio_mask=is_decayed,
        momentum=config.momentum,
        nesterov=config.nesterov,
    )


def _rmsprop(config: TrainConfig, schedule: optax.Schedule):
    second_moment_decay, epsilon = _second_moment(config)
    return optax.chain(
        _coupled_decay(config),
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


def _muon(config: TrainConfig, schedule: optax.Schedule):
    is_muon = _mask(config.muon_parameters)

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
        weight_decay_mask=_mask(config.decayed_parameters),
        nesterov=config.nesterov,
        consistent_rms=MUON_RMS,
        muon_weight_dimension_numbers=lambda params: jax.tree.map(_as_matrix, params),
    )
    return optax.partition(
        {"muon": orthogonalized, "adamw": _adamw(config, schedule)}, labels
    )


_UPDATES = {
    "sgd": _sgd,
    "adamw": _adamw,
    "lamb": _lamb,
    "lars": _lars,
    "rmsprop": _rmsprop,
    "muon": _muon,
}


def _second_moment(config: TrainConfig) -> tuple[float, float]:
    """Returns the second moment's decay, and epsilon."""
    decay, epsilon = config.second_moment_decay, config.epsilon
    if decay is None:
        decay = _SECOND_MOMENT_DECAY.get(config.optimizer, 0.999)
    if epsilon is None:
        epsilon = _EPSILON.get(config.optimizer, 1e-8)
    return decay, epsilon


def _coupled_decay(config: TrainConfig) -> optax.GradientTransformation:
    return optax.add_decayed_weights(
        config.weight_decay, mask=_mask(config.decayed_parameters)
    )


def _is_matrix(leaf: jax.Array) -> bool:
    return leaf.ndim == 2 or (leaf.ndim > 2 and leaf.shape[-2] > 1)


def _as_matrix(leaf: jax.Array) -> optax.contrib.MuonDimensionNumbers:
    last = leaf.ndim - 1
    return optax.contrib.MuonDimensionNumbers(tuple(range(last)), last)


def _scale_groups(
    groups: Sequence[tuple[str, float]],
) -> optax.GradientTransformation:
    """Multiplies updates, which are linear in the learning rate, by their factor."""

    def update(updates, state, params=None):
        # From the last to the first, so that the first that matches counts.
        factors = jax.tree.map(lambda _: 1.0, updates)
        for pattern, factor in reversed(groups):
            factors = jax.tree.map(
                lambda chosen, old, factor=factor: factor if chosen else old,
                _mask((pattern,))(updates),
                factors,
            )
        return jax.tree.map(lambda each, by: each * by, updates, factors), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def _mask(patterns: Sequence[str]) -> Mask:
    # optax shows parts of a tree to what it partitions; the whole is checked in `init`.
    return lambda tree: trees.path_mask(tree, patterns, allow_unmatched=True)


def _labels(label: str, patterns: Sequence[str], other: str) -> Callable[[Any], Any]:
    return lambda tree: jax.tree.map(
        lambda chosen: label if chosen else other, _mask(patterns)(tree)
    )


def _check_patterns(config: TrainConfig, params: Any) -> None:
    scales = config.weight_decay or config.optimizer in ("lars", "lamb")
    used = {
        "decayed_parameters": config.decayed_parameters if scales else (),
        "muon_parameters": (
            config.muon_parameters if config.optimizer == "muon" else ()
        ),
        "frozen_parameters": config.frozen_parameters,
        "learning_rate_groups": [pattern for pattern, _ in config.learning_rate_groups],
    }
    problems = []
    for field, patterns in used.items():
        for pattern in patterns:
            try:
                trees.path_mask(params, pattern)
            except ValueError as error:
                problems.append(f"  {field}: {error}")
    if problems:
        raise ValueError("Some patterns select no parameter:\n" + "\n".join(problems))
