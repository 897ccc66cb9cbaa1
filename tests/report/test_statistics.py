"""Intervals against SciPy, and their corners."""

import itertools

import numpy as np
import pytest
import scipy.stats

from cnn_jax.report import statistics


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 8, 9, 30, 101])
def test_student_quantile_matches_scipy(degrees):
    for probability in (0.5, 0.6, 0.9, 0.975, 0.9995):
        np.testing.assert_allclose(
            statistics.student_quantile(probability, degrees),
            scipy.stats.t.ppf(probability, degrees),
            rtol=1e-9,
            atol=1e-12,
        )


def test_student_interval_matches_scipy():
    samples = [0.91, 0.93, 0.925, 0.90]
    interval = statistics.student_interval(samples, confidence=0.9)
    expected = scipy.stats.t.interval(
        0.9, 3, loc=np.mean(samples), scale=scipy.stats.sem(samples)
    )
    np.testing.assert_allclose((interval.low, interval.high), expected, rtol=1e-9)
    assert interval.mean == pytest.approx(np.mean(samples))
    assert (interval.method, interval.num_samples) == (statistics.STUDENT, 4)


@pytest.mark.parametrize(
    ("successes", "trials"), [(0, 10), (10, 10), (9, 10), (321, 355), (1, 1)]
)
def test_wilson_interval_matches_scipy(successes, trials):
    interval = statistics.wilson_interval(successes / trials, trials)
    expected = scipy.stats.binomtest(successes, trials).proportion_ci(method="wilson")
    np.testing.assert_allclose(
        (interval.low, interval.high), (expected.low, expected.high), atol=1e-12
    )
    assert interval.low <= interval.mean <= interval.high
    assert (interval.method, interval.num_samples) == (statistics.WILSON, trials)


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
        (lambda: statistics.student_quantile(1.0, 3), "probability: got 1.0"),
        (lambda: statistics.student_quantile(0.9, 0), "degrees: got 0"),
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
