"""Variables and every call of a layer in order, nothing computed."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from cnn_jax.layers import BatchNorm, Dense, abstract_variables, trace_layers


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


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        if x.shape[-1] != 4:
            raise ValueError(f"got {x.shape[-1]} channels, expected 4.")
        x = Dense(3, param_dtype=jnp.bfloat16, dtype=x.dtype, name="dense")(x)
        return BatchNorm(use_running_average=not train, name="norm")(x)


@pytest.mark.parametrize("make", [jnp.zeros, jax.ShapeDtypeStruct])
def test_abstract_variables_are_those_of_init(make):
    images = make((2, 4), jnp.float32)
    found = abstract_variables(Normalised(), images)
    made = Normalised().init(jax.random.key(0), jnp.zeros((2, 4)), train=False)
    assert found == jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), made
    )


def test_abstract_variables_pass_the_model_s_own_error_on():
    with pytest.raises(ValueError, match="got 3 channels"):
        abstract_variables(Normalised(), jax.ShapeDtypeStruct((2, 3), jnp.float32))


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
