"""BatchNorm, LayerNorm and GroupNorm against their namesakes in flax.linen."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.flax_equality import assert_equals_flax
from helpers.quick import nightly_except

from cnn_jax import kernels as K
from cnn_jax.geometry import MaxPool
from cnn_jax.layers import BatchNorm, GroupNorm, LayerNorm, statistics_scope


def filled(variables, generator):
    """Replaces every leaf by positive numbers, so that none is neutral."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(generator.uniform(0.5, 1.5, leaf.shape), leaf.dtype),
        variables,
    )


@pytest.mark.parametrize("use_running_average", [True, False])
@pytest.mark.parametrize("shape", [(4, 5, 6, 3), (16, 3)])
def test_equals_flax(shape, use_running_average, x64, generator):
    fields = {
        "momentum": 0.8,
        "epsilon": 1e-3,
        "param_dtype": jnp.float64,
        "use_running_average": use_running_average,
    }
    x = jnp.asarray(generator.normal(2.0, 3.0, size=shape))
    ours = BatchNorm(**fields)
    theirs = nn.BatchNorm(force_float32_reductions=False, **fields)
    variables = ours.init(jax.random.key(0), x)
    chex.assert_trees_all_equal(variables, theirs.init(jax.random.key(0), x))
    assert_equals_flax(
        ours, theirs, x, generator, bounds=(0.5, 1.5), rtol=1e-10, atol=1e-12
    )


def test_default_variables_equal_flax_in_float32():
    x = jnp.ones((2, 3))
    chex.assert_trees_all_equal(
        BatchNorm(use_running_average=True).init(jax.random.key(0), x),
        nn.BatchNorm(use_running_average=True).init(jax.random.key(0), x),
    )


def test_momentum_weighs_the_old_statistic_and_variance_is_biased(generator):
    x = jnp.asarray(generator.normal(1.0, 2.0, size=(5, 3)), jnp.float32)
    norm = BatchNorm(momentum=0.75)
    variables = norm.init(jax.random.key(0), x, use_running_average=False)
    chex.assert_trees_all_equal(
        variables["batch_stats"], {"mean": jnp.zeros(3), "var": jnp.ones(3)}
    )
    _, updates = norm.apply(
        variables, x, use_running_average=False, mutable=["batch_stats"]
    )
    x = np.asarray(x, np.float64)
    chex.assert_trees_all_close(
        updates["batch_stats"],
        {"mean": 0.25 * x.mean(0), "var": 0.75 + 0.25 * x.var(0, ddof=0)},
        rtol=1e-5,
    )


def test_statistics_are_float32_under_bfloat16(generator):
    # Between 32 and 64, bfloat16 numbers are a quarter apart: too coarse for a mean.
    x = jnp.asarray(generator.normal(40.0, 1.0, size=(4096, 2)), jnp.bfloat16)
    norm = BatchNorm(momentum=0.0, dtype=jnp.bfloat16, use_running_average=False)
    variables = norm.init(jax.random.key(0), x)
    y, updates = norm.apply(variables, x, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    chex.assert_trees_all_equal_dtypes(updates["batch_stats"], variables["batch_stats"])
    exact = np.asarray(x, np.float64)
    chex.assert_trees_all_close(
        updates["batch_stats"],
        {"mean": exact.mean(0), "var": exact.var(0)},
        rtol=1e-5,
    )


@pytest.mark.parametrize("x_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_output_has_dtype(x_dtype, dtype):
    x = jnp.ones((4, 3), x_dtype)
    for use_running_average in (True, False):
        norm = BatchNorm(
            dtype=dtype,
            param_dtype=jnp.bfloat16,
            use_running_average=use_running_average,
        )
        y, variables = norm.init_with_output(jax.random.key(0), x)
        assert y.dtype == dtype
        assert variables["params"]["scale"].dtype == jnp.bfloat16
        assert variables["batch_stats"]["var"].dtype == jnp.float32


def test_statistics_are_shared_over_a_mapped_axis(generator):
    x = jnp.asarray(generator.normal(size=(2, 4, 3)), jnp.float32)
    whole = x.reshape(8, 3)
    local = BatchNorm(use_running_average=False)
    shared = BatchNorm(use_running_average=False, axis_name="devices")
    variables = local.init(jax.random.key(0), whole)
    # An axis that no transformation has bound must not break init.
    chex.assert_trees_all_equal(variables, shared.init(jax.random.key(0), whole))

    expected, expected_updates = local.apply(variables, whole, mutable=["batch_stats"])
    y, updates = jax.vmap(
        lambda part: shared.apply(variables, part, mutable=["batch_stats"]),
        axis_name="devices",
    )(x)
    chex.assert_trees_all_close(y.reshape(8, 3), expected, rtol=1e-5, atol=1e-6)
    for device in range(2):
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf: leaf[device], updates),  # noqa: B023
            expected_updates,
            rtol=1e-5,
            atol=1e-6,
        )


def test_running_variance_can_be_unbiased(generator):
    x = jnp.asarray(generator.normal(size=(4, 2, 3)), jnp.float32)
    norm = BatchNorm(
        momentum=0.75, use_running_average=False, unbiased_running_var=True
    )
    variables = norm.init(jax.random.key(0), x)
    y, updates = norm.apply(variables, x, mutable=["batch_stats"])
    exact = np.asarray(x, np.float64)
    chex.assert_trees_all_close(
        updates["batch_stats"],
        {
            "mean": 0.25 * exact.mean((0, 1)),
            "var": 0.75 + 0.25 * exact.reshape(8, 3).var(0, ddof=1),
        },
        rtol=1e-5,
    )
    # The batch itself is normalised by the biased variance.
    biased = norm.copy(unbiased_running_var=False)
    chex.assert_trees_all_equal(
        y, biased.apply(variables, x, mutable=["batch_stats"])[0]
    )
    # One value has no unbiased variance; its running variance stays finite.
    _, updates = norm.apply(variables, x[:1, :1], mutable=["batch_stats"])
    chex.assert_tree_all_finite(updates)


@pytest.mark.parametrize("groups", [None, [[0, 1], [2, 3]]])
def test_unbiased_variance_counts_every_device_of_its_group(groups, generator):
    x = jnp.asarray(generator.normal(size=(4, 5, 3)), jnp.float32)
    norm = BatchNorm(
        momentum=0.0,
        use_running_average=False,
        unbiased_running_var=True,
        axis_name="devices",
        axis_index_groups=groups,
    )
    variables = norm.init(jax.random.key(0), x[0])

    def apply(part):
        return norm.apply(variables, part, mutable=["batch_stats"])[1]

    updates = jax.pmap(apply, axis_name="devices")(x)["batch_stats"]["var"]
    for group in groups or [range(4)]:
        values = np.asarray(x, np.float64)[jnp.asarray(group)].reshape(-1, 3)
        for device in group:
            np.testing.assert_allclose(
                updates[device], values.var(0, ddof=1), rtol=1e-5
            )


@pytest.mark.parametrize("momentum", [-0.1, 1.1])
def test_refuses_momentum(momentum):
    with pytest.raises(ValueError, match="momentum"):
        BatchNorm(momentum=momentum, use_running_average=True).init(
            jax.random.key(0), jnp.ones((2, 3))
        )


@pytest.mark.parametrize("use_running_average", [True, False])
@pytest.mark.parametrize("activation", [K.relu, K.silu])
def test_activation_in_the_call_equals_activation_after_it(
    activation, use_running_average, x64, generator
):
    x = jnp.asarray(generator.normal(size=(4, 5, 3)))
    norm = BatchNorm(
        use_running_average=use_running_average, param_dtype=jnp.float64, epsilon=1e-3
    )
    plain = norm.init(jax.random.key(0), x)
    chex.assert_trees_all_equal(
        plain, norm.init(jax.random.key(0), x, activation=activation)
    )
    variables = filled(plain, generator)
    dy = jnp.asarray(generator.normal(size=x.shape))

    def everything(apply):
        def call(params, x):
            return apply({**variables, "params": params}, x)

        y, pullback, updates = jax.vjp(call, variables["params"], x, has_aux=True)
        return y, updates, pullback(dy)

    def inside(variables, x):
        return norm.apply(variables, x, activation=activation, mutable=["batch_stats"])

    def after(variables, x):
        y, updates = norm.apply(variables, x, mutable=["batch_stats"])
        return activation(y), updates

    chex.assert_trees_all_close(
        everything(inside), everything(after), rtol=1e-12, atol=1e-13
    )


def test_refuses_activation():
    with pytest.raises(ValueError, match=r"activation .*tanh"):
        BatchNorm(use_running_average=True).init(
            jax.random.key(0), jnp.ones((2, 3)), activation=jnp.tanh
        )


NAMESAKES = {LayerNorm: nn.LayerNorm, GroupNorm: nn.GroupNorm}


@pytest.mark.parametrize(
    ("layer", "fields"),
    [
        (LayerNorm, {}),
        (LayerNorm, {"epsilon": 0.1, "use_bias": False}),
        (LayerNorm, {"use_scale": False}),
        (GroupNorm, {"num_groups": 3}),
        (GroupNorm, {"num_groups": 2, "use_scale": False, "use_bias": False}),
        (GroupNorm, {"num_groups": None, "group_size": 2, "epsilon": 0.1}),
    ],
)
@pytest.mark.parametrize("shape", [(4, 5, 3, 6), (8, 6)])
def test_own_statistics_equal_flax(layer, fields, shape, x64, generator):
    x = jnp.asarray(generator.normal(2.0, 3.0, size=shape))
    ours = layer(param_dtype=jnp.float64, **fields)
    theirs = NAMESAKES[layer](
        param_dtype=jnp.float64, force_float32_reductions=False, **fields
    )
    variables = ours.init(jax.random.key(0), x)
    chex.assert_trees_all_equal(variables, theirs.init(jax.random.key(0), x))
    assert_equals_flax(
        ours, theirs, x, generator, bounds=(0.5, 1.5), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("layer", NAMESAKES)
def test_own_statistics_default_to_flax_s_fields(layer, generator):
    x = jnp.asarray(generator.normal(size=(2, 3, 64)), jnp.float32)
    variables = layer().init(jax.random.key(0), x)
    theirs = NAMESAKES[layer]()
    chex.assert_trees_all_equal(variables, theirs.init(jax.random.key(0), x))
    chex.assert_trees_all_close(
        layer().apply(variables, x), theirs.apply(variables, x), rtol=1e-5, atol=1e-5
    )
    for name in layer.__dataclass_fields__:
        if not name.endswith("_init"):
            assert getattr(layer(), name) == getattr(theirs, name)


@pytest.mark.parametrize("layer", NAMESAKES)
@pytest.mark.parametrize("x_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("dtype", [None, jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
def test_own_statistics_have_flax_s_dtypes(layer, x_dtype, dtype, param_dtype):
    x = jnp.ones((2, 3, 32), x_dtype)
    fields = {"dtype": dtype, "param_dtype": param_dtype}

    def result(layer):
        return jax.eval_shape(layer(**fields).init_with_output, jax.random.key(0), x)

    with jax.numpy_dtype_promotion("standard"):
        expected = result(NAMESAKES[layer])
    # Only a dtype that was not given needs promotion.
    with jax.numpy_dtype_promotion("standard" if dtype is None else "strict"):
        actual = result(layer)
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "num_groups 32 for 6 channels"),
        ({"group_size": 2}, "num_groups 32 and group_size 2, expected one of them"),
        ({"num_groups": None}, "num_groups None and group_size None"),
        ({"num_groups": None, "group_size": 4}, "group_size 4 for 6 channels"),
        ({"num_groups": None, "group_size": 0}, "group_size 0 for 6 channels"),
    ],
)
def test_refuses_groups(fields, message):
    with pytest.raises(ValueError, match=message):
        GroupNorm(**fields).init(jax.random.key(0), jnp.ones((2, 6)))


@pytest.mark.parametrize("target", ["cpu", "tpu"])
@pytest.mark.parametrize("use_running_average", [True, False])
@pytest.mark.parametrize("num_groups", nightly_except([2], [1, 2]))
def test_pooled_is_normalized_then_pooled(
    num_groups, use_running_average, target, x64, generator
):
    x = jnp.asarray(generator.normal(2.0, 3.0, size=(4, 6, 5, 3)))
    layer = BatchNorm(use_running_average=use_running_average, param_dtype=jnp.float64)
    variables = filled(layer.init(jax.random.key(0), x), generator)

    def loss_fn(variables, x, pool):
        y, updates = layer.apply(
            variables, x, activation=K.relu, pool=pool, mutable=["batch_stats"]
        )
        if pool is None:
            y = K.max_pool(y, 3, strides=2, padding=1)
        return (y**2).sum(), (y, updates)

    gradients = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
    with K.target_platform(target), statistics_scope(num_groups=num_groups):
        pooled = gradients(variables, x, MaxPool(3, strides=2, padding=1))
        plain = gradients(variables, x, None)
    chex.assert_trees_all_close(pooled, plain, rtol=1e-10, atol=1e-12)
