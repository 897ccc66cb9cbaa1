"""Paired comparisons over the seeds, and the sentences that they support."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cnn_jax.report.statistics import Interval, student_interval
from cnn_jax.report.words import count
from cnn_jax.studies.metrics import METRICS, Metric
from cnn_jax.studies.panel import Effect

Verdict = Literal["seen", "opposite", "not told apart", "no verdict"]


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Judgement of an effect by the runs.

    Attributes:
      effect: The effect.
      verdict: "seen" or "opposite" if the 95 % interval of the difference is on one
        side of 0, "not told apart" if 0 is in it; "no verdict" where fewer than two
        seeds finished.
      difference: Of the metric, variant minus baseline, seed by seed; None if no seed
        finished both.
      failed: The number of seeds of each of the two whose loss was not finite.
    """

    effect: Effect
    verdict: Verdict
    difference: Interval | None
    failed: Mapping[str, int]

    @property
    def sentence(self) -> str:
        """The claim, whether it was seen, and the difference with its interval."""
        effect, metric = self.effect, METRICS[self.effect.metric]
        heads = {
            "seen": f"Seen: {effect.claim}.",
            "opposite": f"The opposite was seen of: {effect.claim}.",
            "not told apart": f"Not seen at this scale: {effect.claim}.",
            "no verdict": f"No verdict on: {effect.claim}.",
        }
        head = heads[self.verdict]
        lost = "".join(
            f" The loss of {name} was not finite with {count(number, 'seed')}."
            for name, number in self.failed.items()
            if number
        )
        if self.difference is None:
            return f"{head} No seed finished both.{lost}"
        name = f"{metric.name[0].upper()}{metric.name[1:]}"
        mean, low, high = (
            _signed(metric, value)
            for value in (
                self.difference.mean,
                self.difference.low,
                self.difference.high,
            )
        )
        unit = f" {metric.difference_unit}" if metric.difference_unit else ""
        text = (
            f"{head} {name} of {effect.variant} minus {effect.baseline}: {mean}{unit}"
        )
        if self.verdict == "no verdict":
            return f"{text}, of one seed.{lost}"
        seeds = count(self.difference.num_samples, "seed")
        return f"{text} (95 % interval {low} to {high}, {seeds}).{lost}"


def judge(effect: Effect, runs: Sequence[Mapping[str, Any]]) -> Judgement:
    """Compares two variants seed by seed.

    Args:
      effect: The claim.
      runs: Records of runs, of these two variants among others.
    """
    first, second = (
        {
            run["seed"]: run[effect.metric]
            for run in runs
            if run["variant"] == name and run.get(effect.metric) is not None
        }
        for name in (effect.variant, effect.baseline)
    )
    failed = {
        name: sum(run["variant"] == name and "failed_at_step" in run for run in runs)
        for name in (effect.variant, effect.baseline)
    }
    differences = [first[seed] - second[seed] for seed in sorted(first.keys() & second)]
    if not differences:
        return Judgement(effect, "no verdict", None, failed)
    difference = student_interval(differences)
    return Judgement(effect, verdict(difference, effect.expected), difference, failed)


def verdict(difference: Interval, expected: Literal["higher", "lower"]) -> Verdict:
    """Returns what the interval of paired differences says of a claim of their sign."""
    if difference.num_samples < 2:
        return "no verdict"
    if difference.low <= 0 <= difference.high:
        return "not told apart"
    return "seen" if (difference.mean > 0) == (expected == "higher") else "opposite"


def _signed(metric: Metric, value: float) -> str:
    column = metric.column
    return format(value * column.scale, "+" + column.format_spec.replace("d", ".0f"))
