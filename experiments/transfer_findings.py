"""The findings of a transfer study: intervals, paired differences, and a rule of thumb.

Everything here is arithmetic on finished runs. A seed draws the examples as well as
what training draws, and it draws the same ones for every treatment; so treatments are
compared seed by seed, which takes the luck of the draw out of the difference.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cnn_jax.report.statistics import Interval, accuracy_interval, student_interval
from cnn_jax.report.words import listed

APPROACHES: Mapping[str, str] = {
    "scratch": "from scratch",
    "feature_extraction": "feature extraction",
    "fine_tune": "fine-tuning",
    "head_then_all": "head-then-all",
}
"""The approaches, and what a reader calls them."""

ADVICE: Mapping[str, str] = {
    "scratch": "train from scratch",
    "feature_extraction": "extract features",
    "fine_tune": "fine-tune",
    "head_then_all": "train the head, then all",
}
"""The advice to a reader."""

POLICIES: Mapping[str, tuple[str, ...]] = {
    "scratch": ("train",),
    "feature_extraction": ("frozen", "adapt"),
    "fine_tune": ("train", "adapt", "frozen"),
    "head_then_all": ("train", "adapt", "frozen"),
}
"""The batch norm policies that mean something for each approach. Random weights have no
statistics to keep; a frozen backbone has nothing to train."""

SAME_COST = 1.5
"""Treatments whose seconds differ by no more than this factor cost the same."""


class Treatment(NamedTuple):
    """An approach under a batch norm policy."""

    approach: str
    batch_norm: str

    @property
    def label(self) -> str:
        """Its name in the report."""
        return APPROACHES[self.approach] + self._policy("")

    @property
    def advice(self) -> str:
        """The advice to a reader."""
        return ADVICE[self.approach] + self._policy("batch norm ")

    def _policy(self, prefix: str) -> str:
        if len(POLICIES[self.approach]) == 1:
            return ""
        return f" ({prefix}{self.batch_norm})"


class Size(NamedTuple):
    """A number of labelled examples per class.

    Attributes:
      asked: As the configuration has it; 0 for all there are.
      per_class: How many there were, on average over the classes.
    """

    asked: int
    per_class: float

    @property
    def label(self) -> str:
        """Its name in the report."""
        return str(self.asked) if self.asked else f"all ({self.per_class:.0f})"


@dataclasses.dataclass(frozen=True)
class TransferRun:
    """One finished run.

    Attributes:
      treatment: What was done.
      examples_per_class: As asked for, 0 for all.
      seed: What drew the examples and everything random in training.
      accuracy: On the test split, in [0, 1].
      seconds: Wall time of what was learned with: training, or extracting features and
        fitting a probe; without compilation and evaluation.
    """

    treatment: Treatment
    examples_per_class: int
    seed: int
    accuracy: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Advice:
    """The advice for a number of examples.

    Attributes:
      size: How many.
      best: The treatment with the highest mean accuracy.
      rivals: Those that the seeds do not tell apart from it.
      chosen: The cheapest of all these; of equally cheap ones the most accurate over
        all sizes, so that advice does not change where the numbers hardly do.
    """

    size: Size
    best: Treatment
    rivals: tuple[Treatment, ...]
    chosen: Treatment


@dataclasses.dataclass(frozen=True)
class Findings:
    """The finished runs, and what follows from them.

    Attributes:
      treatments: In the order of a report.
      sizes: Ascending.
      runs: One for every treatment, size and seed.
      num_test: The number of test examples behind each accuracy.
    """

    treatments: Sequence[Treatment]
    sizes: Sequence[Size]
    runs: Sequence[TransferRun]
    num_test: int

    @functools.cached_property
    def _cells(self) -> dict[tuple[Treatment, int], list[TransferRun]]:
        cells: dict[tuple[Treatment, int], list[TransferRun]] = {}
        for run in sorted(self.runs, key=lambda run: run.seed):
            cells.setdefault((run.treatment, run.examples_per_class), []).append(run)
        return cells

    def of(self, treatment: Treatment, size: Size) -> list[TransferRun]:
        """Returns a cell's runs by ascending seed."""
        return self._cells[treatment, size.asked]

    def accuracy(self, treatment: Treatment, size: Size) -> Interval:
        """Returns the test accuracy with its 95 % interval."""
        runs = self.of(treatment, size)
        return accuracy_interval([run.accuracy for run in runs], self.num_test)

    def seconds(self, treatment: Treatment, size: Size) -> float:
        """Returns the median cost: of equal work, which a busy machine delays."""
        return statistics.median(run.seconds for run in self.of(treatment, size))

    def mean_accuracy(self, treatment: Treatment) -> float:
        """Returns the mean over all sizes and seeds."""
        return statistics.fmean(
            self.accuracy(treatment, size).mean for size in self.sizes
        )

    def difference(self, one: Treatment, other: Treatment, size: Size) -> Interval:
        """Returns how much more accurate one is, seed by seed, as Student's interval.

        With one seed there is no interval: both ends are the difference.
        """
        pairs = zip(self.of(one, size), self.of(other, size), strict=True)
        return student_interval([a.accuracy - b.accuracy for a, b in pairs])

    def is_apart(self, one: Treatment, other: Treatment, size: Size) -> bool:
        """Returns whether the seeds tell two treatments apart, at 95 %.

        With one seed, whether Wilson's intervals of the two accuracies are disjoint.
        """
        found = self.difference(one, other, size)
        if found.num_samples > 1:
            return found.low > 0 or found.high < 0
        first, second = self.accuracy(one, size), self.accuracy(other, size)
        return first.low > second.high or second.low > first.high

    def advice(self, size: Size) -> Advice:
        """Returns what to do with so many examples."""

        def mean(treatment: Treatment) -> float:
            return self.accuracy(treatment, size).mean

        best = max(self.treatments, key=mean)
        rivals = tuple(
            treatment
            for treatment in self.treatments
            if treatment != best and not self.is_apart(best, treatment, size)
        )
        costs = {each: self.seconds(each, size) for each in (best, *rivals)}
        cheap = [
            each for each in costs if costs[each] <= SAME_COST * min(costs.values())
        ]
        return Advice(size, best, rivals, max(cheap, key=self.mean_accuracy))

    def best_policy(self, approach: str) -> Treatment | None:
        """Returns an approach under its policy of highest mean, if it was run."""
        found = [each for each in self.treatments if each.approach == approach]
        return max(found, key=self.mean_accuracy, default=None)

    @property
    def approaches(self) -> list[str]:
        """The approaches that were run."""
        return [name for name in APPROACHES if self.best_policy(name) is not None]


def rule_of_thumb(findings: Findings) -> list[str]:
    """Returns what to do when, in sentences that follow from the numbers alone."""
    return [
        *what_to_take(findings),
        *what_pretraining_adds(findings),
        *_what_batch_norm_does(findings),
    ]


def percent(share: float) -> str:
    """Returns a share as `91.2 %`, which no line break parts."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def points(interval: Interval) -> str:
    """Returns a difference of accuracies as `+3.1 points`."""
    return f"{100 * interval.mean:+.1f} points"


def what_to_take(findings: Findings) -> list[str]:
    """Returns the advice, a sentence for each range of sizes that share it."""
    groups: list[list[Advice]] = []
    for size in findings.sizes:
        advice = findings.advice(size)
        if groups and groups[-1][0].chosen == advice.chosen:
            groups[-1].append(advice)
        else:
            groups.append([advice])
    sentences = []
    for place, group in enumerate(groups):
        first, last, chosen = group[0].size, group[-1].size, group[0].chosen
        if len(groups) == 1:
            where = "At every size"
        elif place == 0:
            where = f"With up to {last.label} labelled examples per class"
        elif place == len(groups) - 1 and len(group) > 1:
            where = f"From {first.label} per class on"
        else:
            where = f"At {listed([advice.size.label for advice in group])} per class"
        found = ", ".join(
            f"{percent(findings.accuracy(chosen, size).mean)} at {size.label}"
            for size in dict.fromkeys((first, last))
        )
        sentences.append(f"{where}, {chosen.advice}: {found}.")
    return sentences


def what_pretraining_adds(findings: Findings) -> list[str]:
    """Returns the gain over random weights in a sentence, if both were run."""
    scratch = findings.best_policy("scratch")
    others = [each for each in findings.treatments if each != scratch]
    if scratch is None or not others:
        return []
    # One for all sizes: the luckiest of many at each would seem to gain by that alone.
    best = max(others, key=findings.mean_accuracy)
    gains, level = [], []
    for size in findings.sizes:
        gains.append((size, findings.difference(best, scratch, size)))
        if not findings.is_apart(best, scratch, size):
            level.append(size.label)
    steps = ", ".join(f"{points(gain)} at {size.label}" for size, gain in gains)
    sentence = f"Over training from scratch, {best.label} gains {steps}"
    if level:
        return [f"{sentence}; at {listed(level)} the seeds do not tell them apart."]
    return [f"{sentence}; the seeds tell them apart at every size."]


def _what_batch_norm_does(findings: Findings) -> list[str]:
    sentences = []
    for approach in findings.approaches:
        treatments = [each for each in findings.treatments if each.approach == approach]
        if len(treatments) < 2:
            continue
        ranked = sorted(treatments, key=findings.mean_accuracy, reverse=True)
        means = [
            f"{each.batch_norm} {percent(findings.mean_accuracy(each))}"
            for each in ranked
        ]
        best, worst = ranked[0], ranked[-1]
        widest = max(
            findings.sizes, key=lambda size: findings.difference(best, worst, size).mean
        )
        gap = findings.difference(best, worst, widest)
        apart = "" if findings.is_apart(best, worst, widest) else ", not told apart"
        sentences.append(
            f"Batch norm in {APPROACHES[approach]}, mean over the sizes: "
            f"{', '.join(means)}; {best.batch_norm} leads {worst.batch_norm} most at "
            f"{widest.label} ({points(gap)}{apart})."
        )
    return sentences
