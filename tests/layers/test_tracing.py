"""trace_layers: every call in order, with its own parameters, nothing computed."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax.layers import Dense, trace_layers


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = Dense(3, name="first")(x)
        return x * self.param("gain", nn.initializers.ones_init(), (1, 3))


class Outer(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        assert not train
        shared = Inner(name="inner")
        return shared(Dense(4, use_bias=False, name="stem")(x)), shared(x)


def test_records_calls():
    calls = trace_layers(
        Outer(), jax.ShapeDtypeStruct((2, 4), jnp.float32), train=False
    )
    assert [call.path for call in calls] == [
        "stem",
        "inner/first",
        "inner",
        "inner/first",
        "inner",
        "",
    ]
    stem, first, inner, *_, outer = calls
    assert (stem.layer, stem.output_shape) == (Dense, (2, 4))
    assert stem.parameters == {"kernel": (4, 4)}
    assert first.parameters == {"kernel": (4, 3), "bias": (3,)}
    assert inner.parameters == {"gain": (1, 3)}
    assert outer.parameters == {}
    assert [call.num_inner_calls for call in calls] == [0, 0, 1, 0, 1, 5]


def test_computes_nothing():
    # The weights alone would take 4 TB.
    calls = trace_layers(
        Dense(1_000_000), jax.ShapeDtypeStruct((1, 1_000_000), jnp.float32)
    )
    assert calls[0].parameters["kernel"] == (1_000_000, 1_000_000)
