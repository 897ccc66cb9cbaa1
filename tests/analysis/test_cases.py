import numpy as np

from cnn_jax.analysis.cases import CASES, Case, classes, normal, spaced


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


def test_more_examples_leave_parameters_and_single_examples_alone():
    arguments = {"x": normal(2, 3), "w": normal(3, 4), "labels": classes(5, 2)}
    case = Case("dense", "", arguments, {"input_shape": (2, 3), "window": 2})
    large = case.with_batch(4)
    shapes = {name: a.shape for name, a in large.draw(0, np.float32).items()}
    assert shapes == {"x": (8, 3), "w": (3, 4), "labels": (8,)}
    assert large.options == {"input_shape": (8, 3), "window": 2}
    x = large.draw(0, np.float32)["x"]
    assert not np.array_equal(x[:2], x[2:4])
    vector = Case("layer_norm", "", {"x": normal(6), "scale": normal(6)})
    drawn = vector.with_batch(4).draw(0, np.float32)
    assert drawn["x"].shape == drawn["scale"].shape == (6,)
