"""Optimizers, made from a configuration out of optax's parts.

Which parameters something applies to is said by patterns on their paths
(`cnn_jax.trees`), and checked against the whole tree when the state is made.
"""

from __future__ import annotations

from typing import Any

import jax
import optax

from cnn_jax import trees
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.optimizers.freezing import first_steps, unfreeze_steps
from cnn_jax.training.optimizers.roles import ParameterRoles
from cnn_jax.training.optimizers.rules import RULES, among, matching
from cnn_jax.training.optimizers.transforms import (
    after,
    decay_to_start,
    in_wide_dtype,
    scale_depths,
    scale_groups,
)


def make_optimizer(
    config: TrainConfig,
    schedule: optax.Schedule,
    *,
    roles: ParameterRoles | None = None,
    steps_per_epoch: int | None = None,
) -> optax.GradientTransformation:
    """Makes the optimizer; weight decay touches `config.decayed_parameters` alone.

    With gradients g, moments m and v, learning rate r and decay c:

    - `sgd` adds `c w` to the gradient, so that the decay passes through the momentum
      and the learning rate: L2 regularisation, as in PyTorch's `SGD`.
    - `adamw` subtracts `r c w` from the weight itself (Loshchilov and Hutter 2019),
      untouched by the moments, as in PyTorch's `AdamW`.
    - `lars` (You et al. 2017) is `sgd` whose decayed gradient is first scaled to the
      norm `rules.TRUST_COEFFICIENT |w|`.
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
      roles: What the parameters are to their network, see
        `roles.required_roles`; needed for `batch_norm`, `l2_sp` and `layer_decay`.
      steps_per_epoch: How many steps an epoch has; needed for `unfreeze_epochs`.

    Returns:
      An optax transformation. Its `init` raises ValueError listing all patterns that
      match no parameter.

    Raises:
      ValueError: If something needed is not given.
    """
    if roles is None:
        _check_requires_no_roles(config)
        roles = ParameterRoles()
    parts = [_unfreezing(config, schedule, roles, steps_per_epoch)]
    if config.maximum_gradient_norm is not None:
        parts.insert(0, optax.clip_by_global_norm(config.maximum_gradient_norm))
    if config.learning_rate_groups:
        parts.append(scale_groups(config.learning_rate_groups))
    if config.layer_decay is not None:
        parts.append(scale_depths(config.layer_decay, roles.depths))
    optimizer = optax.chain(*parts) if len(parts) > 1 else parts[0]
    optimizer = _of_trained_parameters(optimizer, config, roles)

    def init(params):
        _check_patterns(config, params)
        return optimizer.init(params)

    return optax.GradientTransformation(init, optimizer.update)


def adapt_optimizer(
    optimizer: optax.GradientTransformation,
    config: TrainConfig,
    *,
    roles: ParameterRoles | None = None,
) -> optax.GradientTransformation:
    """Makes an optimizer of the caller's own fit for a run.

    It sees float32 at least, and nothing of `frozen_parameters` and, unless
    `batch_norm` is `"train"`, of batch normalisation's, which have no state and no
    update. Its learning rate, decay and clipping are its own.

    Args:
      optimizer: An optax transformation whose `update` takes gradients, state and
        parameters.
      config: The run's configuration.
      roles: As for `make_optimizer`.

    Returns:
      An optax transformation.

    Raises:
      ValueError: If it is something else, or the configuration asks for another
        optimizer's settings.
    """
    if not (
        callable(getattr(optimizer, "init", None))
        and callable(getattr(optimizer, "update", None))
    ):
        raise ValueError(
            f"optimizer: got {optimizer!r}, expected an optax.GradientTransformation "
            "such as optax.adamw(1e-3)."
        )
    default = type(config)()
    ignored = [
        name for name in OWN_FIELDS if getattr(config, name) != getattr(default, name)
    ]
    if ignored:
        given = ", ".join(f"{name}={getattr(config, name)!r}" for name in ignored)
        raise ValueError(
            f"optimizer: got one of your own and a configuration with {given}, which "
            "it would not heed; expected the defaults there, and the same said to "
            "your optimizer (optax.chain, optax.masked, a schedule)."
        )
    if roles is None:
        _check_requires_no_roles(config)
        roles = ParameterRoles()
    return _of_trained_parameters(
        optax.with_extra_args_support(optimizer), config, roles
    )


OWN_FIELDS = (
    "optimizer",
    "learning_rate",
    "momentum",
    "nesterov",
    "second_moment_decay",
    "epsilon",
    "weight_decay",
    "decayed_parameters",
    "muon_parameters",
    "learning_rate_groups",
    "maximum_gradient_norm",
    "schedule",
    "warmup_epochs",
    "step_milestones",
    "step_factor",
    "l2_sp",
    "layer_decay",
    "unfreeze_epochs",
)
"""Fields of the configuration that an optimizer of the caller's own takes the place of.
"""


def _of_trained_parameters(
    optimizer: optax.GradientTransformation,
    config: TrainConfig,
    roles: ParameterRoles,
) -> optax.GradientTransformation:
    """Has an optimizer see what is not frozen alone, in float32 at least."""
    norms = roles.norms if config.batch_norm != "train" else frozenset()
    if config.frozen_parameters or norms:

        def labels(params):
            is_frozen = matching(config.frozen_parameters)(params)
            return jax.tree.map(
                lambda frozen, norm: "frozen" if frozen or norm else "trained",
                is_frozen,
                among(norms)(params),
            )

        optimizer = optax.partition(
            {"trained": optimizer, "frozen": optax.set_to_zero()}, labels
        )
    return in_wide_dtype(optimizer)


def _unfreezing(
    config: TrainConfig,
    schedule: optax.Schedule,
    roles: ParameterRoles,
    steps_per_epoch: int | None,
) -> optax.GradientTransformation:
    """Gives what begins to move at the same step an optimizer of its own."""
    starts = unfreeze_steps(config, steps_per_epoch)
    if not starts:
        return _descent(config, schedule, roles)

    def begin(first: int) -> optax.GradientTransformation:
        # It counts its own updates, as the bias corrections of moments must.
        later = _descent(config, lambda count: schedule(count + first), roles)
        return after(later, first) if first else later

    return optax.partition(
        {first: begin(first) for first in {0, *(step for _, step in starts)}},
        lambda tree: first_steps(tree, starts, allow_unmatched=True),
    )


def _descent(
    config: TrainConfig, schedule: optax.Schedule, roles: ParameterRoles
) -> optax.GradientTransformation:
    """Makes the optimizer with its decay, and that towards the start."""
    is_decayed = matching(config.decayed_parameters)
    if not config.l2_sp:
        return RULES[config.optimizer](config, schedule, is_decayed)
    is_head = among(roles.head)

    def is_anchored(tree):
        return jax.tree.map(
            lambda decayed, head: decayed and not head, is_decayed(tree), is_head(tree)
        )

    def is_decayed_to_zero(tree):
        return jax.tree.map(
            lambda decayed, head: decayed and head, is_decayed(tree), is_head(tree)
        )

    update = RULES[config.optimizer](config, schedule, is_decayed_to_zero)
    if config.optimizer in ("sgd", "lars", "rmsprop"):
        decay = decay_to_start(lambda count: config.l2_sp)
        return optax.chain(optax.masked(decay, is_anchored), update)
    decay = decay_to_start(lambda count: -config.l2_sp * schedule(count))
    return optax.chain(update, optax.masked(decay, is_anchored))


def _check_requires_no_roles(config: TrainConfig) -> None:
    requires_roles = {
        "batch_norm": config.batch_norm != "train",
        "l2_sp": config.l2_sp > 0,
        "layer_decay": config.layer_decay is not None,
    }
    fields = [field for field, needs in requires_roles.items() if needs]
    if fields:
        raise ValueError(
            f"roles: got None with {', '.join(fields)}, which apply to parameters by "
            "what they are to the network; pass required_roles(config, model, images)."
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
