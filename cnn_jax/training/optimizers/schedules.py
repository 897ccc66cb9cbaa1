"""Learning-rate schedules, made from a configuration."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from cnn_jax.training.config import TrainConfig

ONE_CYCLE_RISE = (3, 10)
"""The share of a one-cycle run in which the rate rises, unless a warm-up says so."""

ONE_CYCLE_START, ONE_CYCLE_END = 25.0, 1e4
"""Divisors of a one-cycle run: of its peak for the first rate, of that for the last."""


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
      as PyTorch's `OneCycleLR`; the rise takes the warm-up's `w` steps, or 30 % of the
      run, rounded down. `p` is the rate at step `w`, which begins the fall. Up to three
      steps without a warm-up, whose 30 % are none, all have `p`.

    A warm-up and a milestone are rounded to whole steps, at least one.

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
    if config.warmup_epochs and num_steps > 1:
        num_warmup = max(1, num_warmup)
    if num_warmup >= num_steps:
        raise ValueError(
            f"warmup_epochs: got {config.warmup_epochs}, {num_warmup} of {num_steps} "
            "steps; expected a warm-up that leaves some."
        )
    if config.schedule == "one_cycle":
        return _one_cycle(peak, num_warmup, num_steps)
    main = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, num_steps - num_warmup),
        "linear": lambda: optax.linear_schedule(peak, 0.0, num_steps - num_warmup),
        "step": lambda: _stairs(
            peak,
            config.step_factor,
            [
                max(1, round(share * num_steps)) - num_warmup
                for share in config.step_milestones
            ],
        ),
    }[config.schedule]()
    if not num_warmup:
        return main
    warmup = optax.linear_schedule(peak / num_warmup, peak, max(num_warmup - 1, 1))
    return optax.join_schedules([warmup, main], [num_warmup])


def _one_cycle(peak: float, num_warmup: int, num_steps: int) -> optax.Schedule:
    """Rises and falls along half cosines."""
    share, of = ONE_CYCLE_RISE
    num_rising = num_warmup or num_steps * share // of
    if not num_rising:
        return optax.constant_schedule(peak)
    start = peak / ONE_CYCLE_START
    end = start / ONE_CYCLE_END

    # As optax.cosine_onecycle_schedule, but in whole steps: that takes the rise as a
    # share of the run, which multiplied back and rounded down is often a step short.
    def learning_rate(count):
        fallen = jnp.minimum(count, num_steps) - num_rising
        return jnp.where(
            count < num_rising,
            _half_cosine(start, peak, count / num_rising),
            _half_cosine(peak, end, fallen / (num_steps - num_rising)),
        )

    return learning_rate


def _half_cosine(start: float, end: float, share: jax.Array) -> jax.Array:
    return end + (start - end) / 2 * (1 + jnp.cos(jnp.pi * share))


def _stairs(peak: float, factor: float, drops: Sequence[int]) -> optax.Schedule:
    """Multiplies by `factor` at each of `drops`, two at one step included."""

    def learning_rate(count):
        num_passed = sum(jnp.where(count >= drop, 1, 0) for drop in drops)
        return peak * jnp.float32(factor) ** num_passed

    return learning_rate
