"""Intervals against tables and closed forms, and their corners."""

import itertools
import math

import numpy as np
import pytest

from cnn_jax.report import statistics

Z = 1.959963984540054
"""The upper 2.5 % point of the normal distribution."""


# The upper 2.5 % points of Student's table; the first two have closed forms.
STUDENT_TABLE = {
    1: (math.tan(0.475 * math.pi), 1e-12),
    2: (0.95 * math.sqrt(2 / (1 - 0.95**2)), 1e-12),
    3: (3.182, 5e-4),
    4: (2.776, 5e-4),
    9: (2.262, 5e-4),
    30: (2.042, 5e-4),
    120: (1.980, 5e-4),
}


@pytest.mark.parametrize("degrees", STUDENT_TABLE)
def test_student_interval_is_that_of_the_table(degrees):
    # Of -1, 0, ..., 0, 1 the mean is 0 and the squares add up to 2.
    samples = [-1.0, *[0.0] * (degrees - 1), 1.0]
    interval = statistics.student_interval(samples)
    error = math.sqrt(2 / degrees / (degrees + 1))
    quantile, tolerance = STUDENT_TABLE[degrees]
    assert interval.high / error == pytest.approx(quantile, abs=tolerance)
    assert interval.low == pytest.approx(-interval.high, rel=1e-12)
    assert interval.mean == 0
    expected = (statistics.STUDENT, degrees + 1)
    assert (interval.method, interval.num_samples) == expected


def test_student_interval_of_another_confidence():
    interval = statistics.student_interval([0.0, 2.0], confidence=0.5)
    # The quartile of one degree of freedom is 1, and so is the standard error.
    assert (interval.low, interval.high) == pytest.approx((0.0, 2.0), abs=1e-12)


def test_samples_that_are_equal_have_no_spread():
    interval = statistics.student_interval([0.25] * 3)
    assert (interval.low, interval.mean, interval.high) == (0.25, 0.25, 0.25)


# Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I.
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_is_that_of_the_table(successes, trials, low, high):
    interval = statistics.wilson_interval(successes / trials, trials)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)
    assert interval.mean == successes / trials
    assert (interval.method, interval.num_samples) == (statistics.WILSON, trials)


@pytest.mark.parametrize("trials", [1, 7, 10_000])
def test_wilson_interval_of_none_and_of_all(trials):
    end = Z**2 / (trials + Z**2)
    none, every = (statistics.wilson_interval(each, trials) for each in (0.0, 1.0))
    assert (none.low, none.high) == pytest.approx((0.0, end), abs=1e-12)
    assert (every.low, every.high) == pytest.approx((1 - end, 1.0), abs=1e-12)
    assert none.low >= 0
    assert every.high <= 1


@pytest.mark.parametrize("accuracy", [321 / 355, float(np.float32(321 / 355))])
def test_wilson_interval_solves_its_equation(accuracy):
    # The ends are where the score test turns: |p - 321 / 355| = z sqrt(p (1 - p) / n).
    interval = statistics.wilson_interval(accuracy, 355)
    for end in (interval.low, interval.high):
        deviation = Z * math.sqrt(end * (1 - end) / 355)
        assert abs(end - 321 / 355) == pytest.approx(deviation, abs=1e-9)


def test_student_interval_covers_the_mean_as_often_as_it_says(generator):
    samples = generator.standard_normal((2000, 3))
    intervals = map(statistics.student_interval, samples.tolist())
    covered = np.mean([each.low <= 0 <= each.high for each in intervals])
    assert 0.93 < covered < 0.97


def test_one_sample_has_no_student_interval():
    interval = statistics.student_interval([0.5])
    assert (interval.low, interval.mean, interval.high) == (0.5, 0.5, 0.5)
    assert interval.method == statistics.SINGLE


def test_accuracy_interval_is_over_examples_for_one_seed_and_over_seeds_for_more():
    assert statistics.accuracy_interval([0.9], 100).method == statistics.WILSON
    assert statistics.accuracy_interval([0.9, 0.8], 100).method == statistics.STUDENT


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: statistics.student_interval([]), "samples: got none"),
        (lambda: statistics.student_interval([1.0], confidence=1.0), "confidence"),
        (lambda: statistics.wilson_interval(1.1, 10), "fraction: got 1.1"),
        (lambda: statistics.wilson_interval(0.5, 0), "num_trials: got 0"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_more_seeds_narrow_the_interval():
    widths = []
    for copies in (1, 2, 4):
        interval = statistics.student_interval([0.8, 0.9] * copies)
        widths.append(interval.high - interval.low)
    assert all(after < before for before, after in itertools.pairwise(widths))
