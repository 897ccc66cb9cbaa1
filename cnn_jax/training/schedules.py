"""Learning-rate schedules, made from a configuration."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import optax

from cnn_jax.training.config import TrainConfig

ONE_CYCLE_RISE = 0.3
"""The share of a one-cycle run in which the rate rises, unless a warm-up says so."""


def make_schedule(config: TrainConfig, steps_per_epoch: int) -> optax.Schedule:
    """Makes the learning rate as a function of the number of finished steps.

    With a peak `p`, a run of `n` steps and a warm-up of `w`, which rises linearly from
    `p / w` at the first step to `p` at step `w - 1`:

    - `constant`: `p`.
    - `cosine`: `p (1 + cos(pi t)) / 2`, `t` going from 0 to 1 over the `n - w` steps.
    - `linear`: `p (1 - t)`.
    - `step`: `p` times `step_factor` for every share of `n` in `step_milestones`
      that has passed.
    - `one_cycle`: from `p / 25` up to `p` and down to `p / 250000`, along half cosines,
      as PyTorch's `OneCycleLR`; the rise takes the warm-up, or 30 % of the run.

    Args:
      config: The run's configuration.
      steps_per_epoch: How many steps an epoch has.

    Returns:
      A function from a step's number to the learning rate.

    Raises:
      ValueError: If the warm-up leaves no step for the rest.
    """
    peak = config.learning_rate
    num_steps = config.epochs * steps_per_epoch
    num_warmup = round(config.warmup_epochs * steps_per_epoch)
    if num_warmup >= num_steps:
        raise ValueError(
            f"warmup_epochs: got {config.warmup_epochs}, {num_warmup} of {num_steps} "
            "steps; expected a warm-up that leaves some."
        )
    if config.schedule == "one_cycle":
        rise = num_warmup / num_steps if num_warmup else ONE_CYCLE_RISE
        # A run of one or two steps has no room for a rise.
        if int(rise * num_steps) < 1:
            return optax.constant_schedule(peak)
        return optax.cosine_onecycle_schedule(
            num_steps, peak, pct_start=rise, div_factor=25.0, final_div_factor=1e4
        )
    main = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, num_steps - num_warmup),
        "linear": lambda: optax.linear_schedule(peak, 0.0, num_steps - num_warmup),
        "step": lambda: _stairs(
            peak,
            config.step_factor,
            [round(share * num_steps) - num_warmup for share in config.step_milestones],
        ),
    }[config.schedule]()
    if not num_warmup:
        return main
    warmup = optax.linear_schedule(peak / num_warmup, peak, max(num_warmup - 1, 1))
    return optax.join_schedules([warmup, main], [num_warmup])


def _stairs(peak: float, factor: float, drops: Sequence[int]) -> optax.Schedule:
    """Multiplies by `factor` at each of `drops`, two at one step included."""

    def learning_rate(count):
        num_passed = sum(jnp.where(count >= drop, 1, 0) for drop in drops)
        return peak * jnp.float32(factor) ** num_passed

    return learning_rate
