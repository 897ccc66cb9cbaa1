"""Means and 95 % intervals: over seeds, or over the examples of one test set.

Sources: Student (1908), "The probable error of a mean"; Wilson (1927), "Probable
inference, the law of succession, and statistical inference"; both as SciPy computes
them. `scipy.stats` is imported by the functions that need it: commands that print
tables without intervals do not wait for it.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

STUDENT = "Student's t over seeds"
WILSON = "Wilson, over test examples"
SINGLE = "one observation, no interval"


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean with the ends of its confidence interval.

    Attributes:
      mean: The estimate.
      low: The lower end; the mean itself where there is no interval.
      high: The upper end; the mean itself where there is no interval.
      method: How the ends were found: `STUDENT`, `WILSON` or `SINGLE`.
      num_samples: The number of observations (seeds, or examples) behind it.
    """

    mean: float
    low: float
    high: float
    method: str
    num_samples: int


def student_interval(samples: Sequence[float], confidence: float = 0.95) -> Interval:
    """Returns the mean of `samples` and the interval that Student's t gives it.

    Args:
      samples: Independent observations, one for each seed.
      confidence: The probability that such an interval covers the true mean.

    Returns:
      The interval. One sample has no spread: both ends are then
      the sample, and the method is `SINGLE`.

    Raises:
      ValueError: If there is no sample or `confidence` is not between 0 and 1.
    """
    _check_confidence(confidence)
    if not samples:
        raise ValueError("samples: got none, expected at least one observation.")
    mean = statistics.fmean(samples)
    if len(samples) == 1:
        return Interval(mean, mean, mean, SINGLE, 1)
    from scipy import stats

    error = statistics.stdev(samples) / math.sqrt(len(samples))
    half = float(stats.t.ppf((1 + confidence) / 2, len(samples) - 1)) * error
    return Interval(mean, mean - half, mean + half, STUDENT, len(samples))


def wilson_interval(
    fraction: float, num_trials: int, confidence: float = 0.95
) -> Interval:
    """Returns Wilson's score interval of a fraction of successes.

    Args:
      fraction: The observed fraction, between 0 and 1; the successes are the whole
        number nearest to `fraction * num_trials`.
      num_trials: The number of independent trials behind it.
      confidence: The probability that such an interval covers the true fraction.

    Returns:
      The interval; its mean is `fraction`, which is not its middle.

    Raises:
      ValueError: If the fraction or the confidence is out of range, or there is no
        trial.
    """
    _check_confidence(confidence)
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction: got {fraction}, expected a number from 0 to 1.")
    if num_trials < 1:
        raise ValueError(f"num_trials: got {num_trials}, expected at least 1.")
    from scipy import stats

    test = stats.binomtest(round(fraction * num_trials), num_trials)
    ends = test.proportion_ci(confidence, method="wilson")
    # Where nothing or all succeeded, an end is the fraction but for rounding.
    low, high = min(float(ends.low), fraction), max(float(ends.high), fraction)
    return Interval(fraction, low, high, WILSON, num_trials)


def accuracy_interval(accuracies: Sequence[float], num_examples: int) -> Interval:
    """Returns the 95 % interval of an accuracy: over seeds, or of a single run.

    Args:
      accuracies: One test accuracy for each seed, between 0 and 1.
      num_examples: The number of test examples behind each.

    Returns:
      Student's interval over two or more seeds (it covers what the seed changes, on
      this very test set); Wilson's interval of the test set for one seed (it covers
      the drawing of the examples, not what another seed would change).
    """
    if len(accuracies) == 1:
        return wilson_interval(accuracies[0], num_examples)
    return student_interval(accuracies)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(
            f"confidence: got {confidence}, expected a number between 0 and 1."
        )
