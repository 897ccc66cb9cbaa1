"""Judgements of claims, against SciPy's paired t-test."""

import pytest
import scipy.stats

from cnn_jax.studies import Effect
from cnn_jax.studies.effects import judge

EFFECT = Effect("B beats A", "b", "a", "test_accuracy", "higher")


def runs(**values):
    return [
        {"variant": name, "seed": seed, "test_accuracy": value}
        for name, row in values.items()
        for seed, value in enumerate(row)
        if value is not None
    ]


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ((0.50, 0.52, 0.51), (0.60, 0.63, 0.61), "seen"),
        ((0.60, 0.63, 0.61), (0.50, 0.52, 0.51), "opposite"),
        ((0.50, 0.60, 0.55), (0.55, 0.52, 0.60), "not told apart"),
        ((0.50,), (0.60,), "no verdict"),
    ],
)
def test_the_verdict_is_that_of_the_paired_interval(a, b, verdict):
    judged = judge(EFFECT, runs(a=a, b=b))
    assert judged.verdict == verdict
    if len(a) > 1:
        expected = scipy.stats.ttest_rel(b, a).confidence_interval(0.95)
        assert judged.difference.low == pytest.approx(expected.low)
        assert judged.difference.high == pytest.approx(expected.high)


def test_it_compares_seeds_that_finished_both():
    judged = judge(EFFECT, runs(a=(0.5, None, 0.6, 0.55), b=(0.6, 0.9, 0.7, None)))
    assert judged.difference.num_samples == 2
    assert judged.difference.mean == pytest.approx(0.1)


def test_the_sentence_has_the_difference_in_points_with_its_interval():
    sentence = judge(EFFECT, runs(a=(0.50, 0.52), b=(0.60, 0.63))).sentence
    assert sentence == (
        "Seen: B beats A. Test accuracy of b minus a: +10.5 points (95 % interval "
        "+4.1 to +16.9, 2 seeds)."
    )


def test_a_claim_that_a_metric_is_lower_is_seen_when_it_is():
    effect = Effect("less", "b", "a", "test_loss", "lower")
    found = [
        {"variant": name, "seed": seed, "test_loss": value}
        for name, row in {"a": (2.0, 2.1), "b": (1.0, 1.2)}.items()
        for seed, value in enumerate(row)
    ]
    assert judge(effect, found).verdict == "seen"


def test_a_variant_that_never_trained_is_said():
    failed = [{"variant": "b", "seed": seed, "failed_at_step": 3} for seed in (0, 1)]
    judged = judge(EFFECT, runs(a=(0.5, 0.6)) + failed)
    assert judged.verdict == "no verdict"
    assert judged.sentence == (
        "No verdict on: B beats A. No seed finished both. The loss of b was not finite "
        "with 2 seeds."
    )
