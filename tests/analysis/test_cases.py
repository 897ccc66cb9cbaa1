import numpy as np

from cnn_jax.analysis.cases import CASES, spaced


def test_draws_are_repeatable_and_depend_on_the_seed():
    case = CASES[0]
    first, again, other = (case.draw(seed, np.float32) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first["x"], again["x"])
    assert not np.array_equal(first["x"], other["x"])
    assert not np.array_equal(first["x"], CASES[1].draw(0, np.float32).get("x"))


def test_spaced_draws_stay_away_from_ties_and_zero():
    values = spaced(5, 7)(np.random.default_rng(0)).ravel()
    assert np.diff(np.sort(values)).min() > 0.05
    assert np.abs(values).min() > 0.05
