"""The scope of statistics is said around a call, and only training listens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.layers import BatchNorm, frozen_statistics, statistics_scope


@pytest.fixture
def x():
    # Groups of different means, so that their statistics differ.
    return jax.random.normal(jax.random.key(0), (8, 3, 3, 4)) + jnp.arange(8.0).reshape(
        8, 1, 1, 1
    )


def train(x, **fields):
    norm = BatchNorm(use_running_average=False, momentum=0.0, **fields)
    variables = norm.init(jax.random.key(0), x)
    return norm.apply(variables, x, mutable=["batch_stats"])


@pytest.mark.parametrize("unbiased", [False, True])
def test_parts_of_the_batch_are_normalised_apart(x, unbiased):
    with statistics_scope(num_groups=4):
        y, updates = train(x, unbiased_running_var=unbiased)
    parts = [train(x[i : i + 2], unbiased_running_var=unbiased) for i in (0, 2, 4, 6)]
    np.testing.assert_allclose(
        y, jnp.concatenate([y for y, _ in parts]), rtol=1e-5, atol=1e-6
    )
    for name in ("mean", "var"):
        average = np.mean([found["batch_stats"][name] for _, found in parts], axis=0)
        np.testing.assert_allclose(updates["batch_stats"][name], average, rtol=1e-5)


def test_a_program_of_one_scope_serves_no_other(x):
    whole = jax.jit(train)
    before = whole(x)[0]
    with statistics_scope(num_groups=4):
        inside = whole(x)[0]
    assert float(jnp.abs(inside - before).max()) > 0.1
    np.testing.assert_array_equal(whole(x)[0], before)


def test_an_axis_of_the_layer_comes_first(x):
    def outer(part):
        with statistics_scope(num_groups=2):
            return train(part, axis_name="device")[0]

    y = jax.vmap(outer, axis_name="device")(x.reshape(4, 2, 3, 3, 4))
    np.testing.assert_allclose(y.reshape(x.shape), train(x)[0], rtol=1e-4, atol=1e-5)


def test_the_scope_may_name_an_axis_and_groups_of_it(x):
    def local(part):
        with statistics_scope("device", axis_index_groups=[[0, 1], [2, 3]]):
            return train(part)[0]

    y = jax.pmap(local, axis_name="device")(x.reshape(4, 2, 3, 3, 4))
    halves = jnp.concatenate([train(x[:4])[0], train(x[4:])[0]])
    np.testing.assert_allclose(y.reshape(x.shape), halves, rtol=1e-4, atol=1e-5)


def test_inference_and_initialisation_do_not_listen(x):
    norm = BatchNorm(use_running_average=True)
    with statistics_scope("nowhere"):
        variables = norm.init(jax.random.key(0), x)
        norm.apply(variables, x)
        BatchNorm(use_running_average=False).init(jax.random.key(0), x)


@pytest.mark.parametrize(
    "arguments", [{"num_groups": 0}, {"num_groups": 2, "axis_name": "d"}]
)
def test_scopes_that_cannot_be_are_refused(arguments):
    with pytest.raises(ValueError, match="num_groups"), statistics_scope(**arguments):
        pass


def test_a_batch_that_does_not_divide_is_refused(x):
    with (
        statistics_scope(num_groups=3),
        pytest.raises(ValueError, match="batch of 8, expected a multiple of the 3"),
    ):
        train(x)


def trained_norm(x, momentum=0.9):
    """A layer in training mode whose variables are none of the initial ones."""
    norm = BatchNorm(use_running_average=False, momentum=momentum)
    channels = jnp.arange(4.0)
    return norm, {
        "params": {"scale": 1 + channels, "bias": channels - 2},
        "batch_stats": {"mean": channels / 2, "var": 1 + channels / 4},
    }


def in_frozen_scope(x):
    with statistics_scope(num_groups=2), frozen_statistics():
        return apply_trained(x)


def frozen_around_scope(x):
    with frozen_statistics(), statistics_scope(num_groups=2):
        return apply_trained(x)


def apply_trained(x):
    norm, variables = trained_norm(x)
    return norm.apply(variables, x, mutable=["batch_stats"])


@pytest.mark.parametrize("apply", [in_frozen_scope, frozen_around_scope])
def test_frozen_statistics_normalise_in_training_and_stay(x, apply):
    before = apply_trained(x)[0]
    y, updates = jax.jit(apply)(x)
    _, variables = trained_norm(x)
    params, statistics = variables["params"], variables["batch_stats"]
    expected = (np.asarray(x) - statistics["mean"][None, None, None]) / np.sqrt(
        statistics["var"][None, None, None] + 1e-5
    ) * params["scale"][None, None, None] + params["bias"][None, None, None]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    for name, value in updates.get("batch_stats", {}).items():
        np.testing.assert_array_equal(value, statistics[name])
    # What was said around one call is not said to the next.
    np.testing.assert_array_equal(apply_trained(x)[0], before)
    assert float(jnp.abs(y - before).max()) > 0.1
