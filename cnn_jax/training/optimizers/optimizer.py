"""Optimizers, made from a configuration out of optax's parts.

Which parameters something applies to is said by patterns on their paths
(`cnn_jax.trees`), and checked against the whole tree when the state is made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import optax
import optax.contrib

from cnn_jax import trees
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.optimizers.freezing import first_steps, unfreeze_steps
from cnn_jax.training.optimizers.roles import Anatomy
from cnn_jax.training.optimizers.transforms import (
    after,
    decay_to_start,
    in_wide_dtype,
    scale_depths,
    scale_groups,
)

TRUST_COEFFICIENT = 1e-3
"""Of LARS: the share of a parameter's norm that a step at learning rate 1 moves it."""

MUON_RMS = 0.2
"""The root mean square of Muon's updates at learning rate 1: about AdamW's."""

_SECOND_MOMENT_DECAY = {"rmsprop": 0.9}
_EPSILON = {"rmsprop": 1e-3, "lamb": 1e-6}

Mask = Callable[[Any], Any]


def make_optimizer(
    config: TrainConfig,
    schedule: optax.Schedule,
    *,
    anatomy: Anatomy | None = None,
    steps_per_epoch: int | None = None,
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

    With `l2_sp` a, those of `decayed_parameters` that are not the head's have a decay
    of `a (w - w0)` in place of `c w`, where w0 is what they were when the state was
    made (Li, Grandvalet and Davoine 2018, "Explicit Inductive Bias for Transfer
    Learning"). `sgd`, `lars` and `rmsprop` add it to the gradient; the others subtract
    `r a (w - w0)` from the weight.

    Around these, in this order: gradients are clipped to `maximum_gradient_norm`, then
    come the optimizer with its decay, and the factors of `learning_rate_groups` and of
    `layer_decay`, which apply to the decay as well. `frozen_parameters`, and those of
    batch normalisation unless `batch_norm` is `"train"`, have no part in the norm, no
    state and no update. Before their time has come, parameters of `unfreeze_epochs`
    have no update and their moments stay at their start, from where they then begin;
    their gradients should be zero, as `train_step` sees to.

    All of it is computed, and its state kept, in float32 at least, whatever the dtype
    of the parameters.

    Args:
      config: The run's configuration.
      schedule: The learning rate of a step's number; of updates, where loss scaling
        skipped some.
      anatomy: What the parameters are to their network, see
        `anatomy.needed_anatomy`; needed for `batch_norm`, `l2_sp` and `layer_decay`.
      steps_per_epoch: How many steps an epoch has; needed for `unfreeze_epochs`.

    Returns:
      An optax transformation. Its `init` raises ValueError listing all patterns that
      match no parameter.

    Raises:
      ValueError: If something needed is not given.
    """
    if anatomy is None:
        _check_needs_no_anatomy(config)
        anatomy = Anatomy()
    parts = [_unfreezing(config, schedule, anatomy, steps_per_epoch)]
    if config.maximum_gradient_norm is not None:
        parts.insert(0, optax.clip_by_global_norm(config.maximum_gradient_norm))
    if config.learning_rate_groups:
        parts.append(scale_groups(config.learning_rate_groups))
    if config.layer_decay is not None:
        parts.append(scale_depths(config.layer_decay, anatomy.depths))
    optimizer = optax.chain(*parts) if len(parts) > 1 else parts[0]
    norms = anatomy.norms if config.batch_norm != "train" else frozenset()
    if config.frozen_parameters or norms:

        def labels(params):
            is_frozen = _mask(config.frozen_parameters)(params)
            return jax.tree.map(
                lambda frozen, norm: "frozen" if frozen or norm else "trained",
                is_frozen,
                _chosen(norms)(params),
            )

        optimizer = optax.partition(
            {"trained": optimizer, "frozen": optax.set_to_zero()}, labels
        )

    optimizer = in_wide_dtype(optimizer)

    def init(params):
        _check_patterns(config, params)
        return optimizer.init(params)

    return optax.GradientTransformation(init, optimizer.update)


def _unfreezing(
    config: TrainConfig,
    schedule: optax.Schedule,
    anatomy: Anatomy,
    steps_per_epoch: int | None,
) -> optax.GradientTransformation:
    """Gives what begins to move at the same step an optimizer of its own."""
    starts = unfreeze_steps(config, steps_per_epoch)
    if not starts:
        return _descent(config, schedule, anatomy)

    def begin(first: int) -> optax.GradientTransformation:
        # It counts its own updates, as the bias corrections of moments must.
        later = _descent(config, lambda count: schedule(count + first), anatomy)
        return after(later, first) if first else later

    return optax.partition(
        {first: begin(first) for first in {0, *(step for _, step in starts)}},
        lambda tree: first_steps(tree, starts, allow_unmatched=True),
    )


def _descent(
    config: TrainConfig, schedule: optax.Schedule, anatomy: Anatomy
) -> optax.GradientTransformation:
    """Makes the optimizer with its decay, and that towards the start."""
    is_decayed = _mask(config.decayed_parameters)
    if not config.l2_sp:
        return _UPDATES[config.optimizer](config, schedule, is_decayed)
    is_head = _chosen(anatomy.head)

    def is_anchored(tree):
        return jax.tree.map(
            lambda decayed, head: decayed and not head, is_decayed(tree), is_head(tree)
        )

    def is_decayed_to_zero(tree):
        return jax.tree.map(
            lambda decayed, head: decayed and head, is_decayed(tree), is_head(tree)
        )

    update = _UPDATES[config.optimizer](config, schedule, is_decayed_to_zero)
    if config.optimizer in ("sgd", "lars", "rmsprop"):
        decay = decay_to_start(lambda count: config.l2_sp)
        return optax.chain(optax.masked(decay, is_anchored), update)
    decay = decay_to_start(lambda count: -config.l2_sp * schedule(count))
    return optax.chain(update, optax.masked(decay, is_anchored))


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
        optax.masked(optax.scale_by_trust_ratio(), _mask(config.decayed_parameters)),
        optax.scale_by_learning_rate(schedule),
    )


def _lars(config: TrainConfig, schedule: optax.Schedule, is_decayed: Mask):
    return optax.lars(
        schedule,
        weight_decay=config.weight_decay,
        weight_decay_mask=is_decayed,
        trust_coefficient=TRUST_COEFFICIENT,
        trust_ratio_mask=_mask(config.decayed_parameters),
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
        weight_decay_mask=is_decayed,
        nesterov=config.nesterov,
        consistent_rms=MUON_RMS,
        muon_weight_dimension_numbers=lambda params: jax.tree.map(_as_matrix, params),
    )
    return optax.partition(
        {"muon": orthogonalized, "adamw": _adamw(config, schedule, is_decayed)},
        labels,
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


def _is_matrix(leaf: jax.Array) -> bool:
    return leaf.ndim == 2 or (leaf.ndim > 2 and leaf.shape[-2] > 1)


def _as_matrix(leaf: jax.Array) -> optax.contrib.MuonDimensionNumbers:
    last = leaf.ndim - 1
    return optax.contrib.MuonDimensionNumbers(tuple(range(last)), last)


def _mask(patterns: Sequence[str]) -> Mask:
    # optax shows parts of a tree to what it partitions; the whole is checked in `init`.
    return lambda tree: trees.path_mask(tree, patterns, allow_unmatched=True)


def _chosen(paths: Collection[str]) -> Mask:
    def mask(tree):
        names = trees.named_leaves(tree)
        structure = jax.tree.structure(tree)
        return jax.tree.unflatten(structure, [name in paths for name in names])

    return mask


def _check_needs_no_anatomy(config: TrainConfig) -> None:
    needy = {
        "batch_norm": config.batch_norm != "train",
        "l2_sp": config.l2_sp > 0,
        "layer_decay": config.layer_decay is not None,
    }
    fields = [field for field, needs in needy.items() if needs]
    if fields:
        raise ValueError(
            f"anatomy: got None with {', '.join(fields)}, which apply to parameters by "
            "what they are to the network; pass needed_anatomy(config, model, images)."
        )


def _check_patterns(config: TrainConfig, params: Any) -> None:
    scales = config.weight_decay or config.l2_sp or config.optimizer in ("lars", "lamb")
    used = {
        "decayed_parameters": config.decayed_parameters if scales else (),
        "muon_parameters": (
            config.muon_parameters if config.optimizer == "muon" else ()
        ),
        "frozen_parameters": config.frozen_parameters,
        "learning_rate_groups": [pattern for pattern, _ in config.learning_rate_groups],
        "unfreeze_epochs": [pattern for pattern, _ in config.unfreeze_epochs],
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
