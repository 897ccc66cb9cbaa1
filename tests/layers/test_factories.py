"""The arguments that `layer_factories` fills in."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from cnn_jax.layers import (
    BatchNorm,
    Conv,
    Dense,
    LayerNorm,
    ModuleFactory,
    SpaceToDepthConv,
    layer_factories,
)


class Network(nn.Module):
    norm: ModuleFactory | None = functools.partial(BatchNorm, momentum=0.75)
    dtype: jnp.dtype | None = jnp.bfloat16
    param_dtype: jnp.dtype = jnp.float16


@pytest.mark.parametrize("train", [False, True])
def test_norms_get_the_networks_dtypes_and_mode_and_keep_their_own_fields(train):
    norm = layer_factories(Network(), train=train).norm()
    assert type(norm) is BatchNorm
    assert (norm.use_running_average, norm.momentum) == (not train, 0.75)
    assert (norm.dtype, norm.param_dtype) == (jnp.bfloat16, jnp.float16)


def test_a_network_without_norms_gets_none():
    assert layer_factories(Network(norm=None), train=True).norm is None


@pytest.mark.parametrize("space_to_depth", [False, True])
def test_layers_get_the_dtypes_and_the_initializer(space_to_depth):
    init = nn.initializers.ones_init()
    make = layer_factories(
        Network(), train=False, space_to_depth=space_to_depth, kernel_init=init
    )
    layers = (make.conv(3, 1), make.stem_conv(3, 1), make.dense(3))
    stem = SpaceToDepthConv if space_to_depth else Conv
    assert [type(layer) for layer in layers] == [Conv, stem, Dense]
    for layer in layers:
        assert layer.kernel_init is init
        assert (layer.dtype, layer.param_dtype) == (jnp.bfloat16, jnp.float16)


def test_filters_start_from_he_normal_unless_told():
    layer = layer_factories(Network(param_dtype=jnp.float32), train=False).dense(4000)
    kernel = layer.init(jax.random.key(0), jnp.ones((1, 50)))["params"]["kernel"]
    # 200,000 draws of variance 2 / 50.
    assert float(jnp.var(kernel)) == pytest.approx(0.04, rel=0.02)


def test_dtypes_alone_suit_layers_that_take_nothing_else():
    norm = LayerNorm(**layer_factories(Network(norm=LayerNorm), train=True).dtypes)
    assert (norm.dtype, norm.param_dtype) == (jnp.bfloat16, jnp.float16)
