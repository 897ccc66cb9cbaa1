"""Dense against flax.linen.Dense: the same variables, outputs and gradients."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from cnn_jax.layers import Dense
from cnn_jax.layers.linear import DenseParameters


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3)])
def test_equals_flax(shape, use_bias, x64, generator):
    fields = {"features": 4, "use_bias": use_bias, "param_dtype": jnp.float64}
    x = jnp.asarray(generator.normal(size=shape))
    ours, theirs = Dense(**fields), nn.Dense(**fields)
    variables = ours.init(jax.random.key(1), x)
    chex.assert_trees_all_equal(variables, theirs.init(jax.random.key(1), x))

    variables = jax.tree.map(
        lambda leaf: jnp.asarray(generator.normal(size=leaf.shape)), variables
    )
    dy = jnp.asarray(generator.normal(size=(*shape[:-1], 4)))

    def output_and_gradients(module):
        y, pullback = jax.vjp(module.apply, variables, x)
        return y, pullback(dy)

    chex.assert_trees_all_close(
        output_and_gradients(ours), output_and_gradients(theirs), rtol=1e-12
    )


def test_computes_in_dtype_and_stores_in_param_dtype():
    x = jnp.ones((2, 3))
    dense = Dense(4, dtype=jnp.bfloat16)
    variables = dense.init(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert dense.apply(variables, x).dtype == jnp.bfloat16


@pytest.mark.parametrize("use_bias", [True, False])
def test_parameters_are_those_of_dense(use_bias):
    fields = {"features": 4, "use_bias": use_bias, "dtype": jnp.bfloat16}
    parameters, key = DenseParameters(**fields), jax.random.key(0)
    variables = Dense(**fields).init(key, jnp.ones((2, 3)))
    chex.assert_trees_all_equal(parameters.init(key, 3), variables)
    kernel, bias = parameters.apply(variables, 3)
    stored = variables["params"]
    chex.assert_trees_all_equal(kernel, stored["kernel"].astype(jnp.bfloat16))
    if use_bias:
        chex.assert_trees_all_equal(bias, stored["bias"].astype(jnp.bfloat16))
    else:
        assert bias is None
