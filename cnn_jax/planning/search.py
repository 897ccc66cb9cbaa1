"""Searches over plans: the largest batch that fits, and the best of many settings."""

from __future__ import annotations

import dataclasses
import itertools
import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from cnn_jax.planning.plan import Plan
from cnn_jax.training.config import TrainConfig

MAX_BATCH = 2**24
"""The largest batch that a configuration may have."""

OPTIONS = {
    "topology": "--topology",
    "batch_size": "--batch-size",
    "image_size": "--image-size",
    "dtype": "--dtype",
    "parallel": "--parallel",
    "mesh": "--mesh",
    "batch_norm_scope": "--batch-norm-scope",
    "reduce_dtype": "--reduce-dtype",
    "optimizer": "--optimizer",
}
"""The options of `cnn-jax plan` by the settings of a plan."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One of the settings to compare.

    Attributes:
      topology: The slice's name.
      config: The run's configuration.
    """

    topology: str
    config: TrainConfig


def find_largest_batch(
    plan_batch: Callable[[int], Plan], start: int, unit: int
) -> Iterator[Plan]:
    """Finds the largest batch that fits, out of `start` halved or doubled.

    Batches between are skipped by a guess, for memory grows with the batch: what is
    compiled in the end is the largest one that fits and its double, which does not.

    Args:
      plan_batch: Plans a batch of so many examples.
      start: The batch to begin with.
      unit: What batches are multiples of: the parts that one is split into.

    Yields:
      The plans, as they are made. If none of them fits, none does.
    """
    fitting, refused, batch = 0, MAX_BATCH + 1, start
    while True:
        plan = plan_batch(batch)
        yield plan
        if plan.fits:
            fitting = batch
            batch = min(_guess(plan), refused // 2) if batch * 2 < refused else 0
            batch = max(batch, fitting * 2) if batch else 0
        else:
            refused = batch
            batch = refused // 2
        if fitting and fitting * 2 >= refused:
            return
        if not batch or batch % unit or batch > MAX_BATCH:
            return


def _guess(plan: Plan) -> int:
    """Returns the largest power-of-two multiple of a plan's batch that should fit."""
    batch: int = plan.settings["batch_size"]
    memory = plan.memory
    total, available = memory["total"], memory["available"]
    names = ("batch", "activations", "temporaries")
    growing = sum(memory[name] or 0 for name in names)
    if total is None or available is None or growing <= 0:
        return batch * 2
    factor = (available - (total - growing)) / growing
    return int(batch * 2 ** max(1, math.floor(math.log2(max(factor, 2)))))


def make_candidates(
    config: TrainConfig,
    topologies: Sequence[str],
    choices: Mapping[str, Sequence[Any]],
) -> list[Candidate]:
    """Returns every combination of choices, beginning with the first of each.

    Args:
      config: What all of them share.
      topologies: The slices.
      choices: Values by the name of the field of `TrainConfig`.
    """
    return [
        Candidate(
            topology,
            dataclasses.replace(config, **dict(zip(choices, values, strict=True))),
        )
        for topology, *values in itertools.product(topologies, *choices.values())
    ]


def chip_seconds_per_image(plan: Plan) -> float | None:
    """Returns what an image costs: its seconds times the chips; None if unknown."""
    seconds = plan.seconds_per_image
    if seconds is None:
        return None
    return float(seconds * plan.devices["count"] / plan.devices["per_chip"])


def find_best(plans: Sequence[Plan]) -> int | None:
    """Returns the index of the plan that fits and whose images cost least.

    Where the compiler gives no cycles, it is the one with the least memory for each
    image. None if none fits.
    """

    def cost(index: int) -> tuple[float, float]:
        seconds = chip_seconds_per_image(plans[index])
        plan = plans[index]
        memory = (plan.memory["total"] or 0) * plan.devices["count"]
        return (
            math.inf if seconds is None else seconds,
            memory / plan.settings["batch_size"],
        )

    fitting = [index for index, plan in enumerate(plans) if plan.fits]
    return min(fitting, key=cost, default=None)


def find_frontier(plans: Sequence[Plan]) -> list[int]:
    """Returns the plans that no other beats in both cycles per image and memory.

    Returns:
      Indices of plans that fit and whose cycles are known (the Pareto frontier).
    """
    points = {
        index: (plan.cycles_per_image, plan.memory["total"])
        for index, plan in enumerate(plans)
        if plan.fits and plan.cycles is not None and plan.memory["total"] is not None
    }
    return [
        index
        for index, point in points.items()
        if not any(_is_better(other, point) for other in points.values())
    ]


def command_of(plan: Plan, also: Iterable[str] = ()) -> str:
    """Returns the command line that makes a plan again.

    Args:
      plan: The plan.
      also: Further words of it.
    """
    settings = plan.settings
    words = ["cnn-jax", "plan", settings["model"]]
    for name, option in OPTIONS.items():
        if settings[name] is not None:
            words += [option, str(settings[name])]
    words += ["--remat"] * settings["remat"]
    return shlex.join([*words, *also])


def _is_better(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    return one != other and one[0] <= other[0] and one[1] <= other[1]
