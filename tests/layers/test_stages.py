"""Parts of networks without blocks: stages, their pools, hidden layers."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import kernels as K
from cnn_jax.layers import (
    BatchNorm,
    Conv,
    ConvNormActivation,
    Dense,
    apply_stage,
    ceil_pool,
    hidden_features,
)

AVG_POOL = functools.partial(K.avg_pool, count_include_pad=False)


@pytest.mark.parametrize(
    ("pool", "reduce"), [(K.max_pool, np.max), (AVG_POOL, np.mean)]
)
@pytest.mark.parametrize("size", [2, 3, 4, 7, 8])
def test_ceil_pool_takes_what_is_left_in_the_last_window(size, pool, reduce, generator):
    x = generator.normal(size=(1, size, size, 1)).astype(np.float32)
    starts = [start for start in range(0, size, 2) if start == 0 or start + 1 < size]
    expected = [
        [reduce(x[0, row : row + 3, column : column + 3]) for column in starts]
        for row in starts
    ]
    y = ceil_pool(jnp.asarray(x), 3, strides=2, pool=pool)
    chex.assert_trees_all_close(y[0, ..., 0], np.array(expected), atol=1e-6)


class Stages(nn.Module):
    remat: bool

    @nn.compact
    def __call__(self, x):
        norm = functools.partial(BatchNorm, use_running_average=False)
        for stage in (1, 2):
            layers = [
                ConvNormActivation(4, 3, norm=norm, name=f"stage{stage}_conv{index}")
                for index in (1, 2)
            ]
            end = functools.partial(K.max_pool, window=2)
            x = apply_stage(self, layers, end, x, remat=self.remat)
        return x


def test_apply_stage_recomputes_the_same_with_the_same_parameters(generator):
    x = jnp.asarray(generator.normal(size=(2, 8, 8, 3)), jnp.float32)
    variables = jax.jit(Stages(remat=False).init)(jax.random.key(0), x)

    def loss_fn(params, remat):
        y, updates = Stages(remat).apply(
            {**variables, "params": params}, x, mutable=["batch_stats"]
        )
        return (y * y).sum(), updates

    gradients = jax.jit(
        jax.value_and_grad(loss_fn, has_aux=True), static_argnames="remat"
    )
    results = [gradients(variables["params"], remat=remat) for remat in (False, True)]
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-6)
    for remat in (False, True):
        program = jax.make_jaxpr(jax.grad(loss_fn, has_aux=True), static_argnums=1)(
            variables["params"], remat
        )
        names = {equation.primitive.name for equation in program.eqns}
        assert bool(names & {"checkpoint", "remat", "remat2"}) is remat


@pytest.mark.parametrize("use_bias", [None, False, True])
@pytest.mark.parametrize("norm", [None, BatchNorm])
def test_bias_is_left_to_the_norm_unless_asked_for(norm, use_bias):
    norm = norm and functools.partial(norm, use_running_average=True)
    layer = ConvNormActivation(4, 3, norm=norm, use_bias=use_bias, conv=Conv)
    params = layer.init(jax.random.key(0), jnp.zeros((1, 4, 4, 2)))["params"]
    assert ("bias" in params["conv"]) is (
        norm is None if use_bias is None else use_bias
    )


class Hidden(nn.Module):
    drop_inputs: bool

    @nn.compact
    def __call__(self, x, deterministic):
        return hidden_features(
            x,
            (6,),
            dense=Dense,
            activation=K.relu,
            dropout_rate=0.5,
            deterministic=deterministic,
            drop_inputs=self.drop_inputs,
        )


@pytest.mark.parametrize("drop_inputs", [False, True])
def test_hidden_features_flatten_and_drop_where_asked(drop_inputs):
    x = jnp.ones((1, 20, 20, 1))
    model = Hidden(drop_inputs)
    kernel = jnp.full((400, 6), 1 / 400)
    params = {"classifier_dense1": {"kernel": kernel, "bias": jnp.zeros(6)}}
    kept = model.apply({"params": params}, x, True)
    chex.assert_trees_all_close(kept, jnp.ones((1, 6)), rtol=1e-6)
    rngs = {"dropout": jax.random.key(0)}
    y = np.asarray(model.apply({"params": params}, x, False, rngs=rngs))
    # A dropped output is 0 or 2; dropped inputs leave a sum between.
    assert (set(np.unique(y.round(5))) <= {0.0, 2.0}) is not drop_inputs
