"""The jaxpr's walk: what is refused, by the name of the layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.export.onnx import UnsupportedOperationError
from cnn_jax.export.onnx.tracing import trace_function

FLOAT32 = np.dtype("float32")


class Sorting(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(SortingLayer(name="stage1")(x).mean((1, 2)))


class SortingLayer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.sort(x, axis=1)


def test_an_unknown_operation_is_named_with_its_layer():
    model = Sorting()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 2)))
    with pytest.raises(UnsupportedOperationError, match="'sort'") as caught:
        trace_function(lambda x: model.apply(variables, x), (4, 4, 2), FLOAT32)
    assert str(caught.value).startswith("Sorting/stage1: got operation")


class Merging(nn.Module):
    @nn.compact
    def __call__(self, x):
        return MergingLayer(name="stage1")(x)


class MergingLayer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x.reshape(-1, 2)


def test_a_merged_batch_is_named_with_its_layer():
    with pytest.raises(UnsupportedOperationError, match="merges its batch") as caught:
        trace_function(lambda x: Merging().apply({}, x), (4, 4, 2), FLOAT32)
    expected = "Merging/stage1: got operation 'reshape', which merges its batch"
    assert str(caught.value).startswith(expected)


def scan(x):
    return jax.lax.scan(lambda carry, _: (carry + 1, None), x, None, length=3)[0]


REFUSED = {
    "a loop": (scan, "'scan'"),
    "a batch made of parameters": (
        lambda x: jnp.cumsum(jnp.ones(x.shape), axis=1) + x,
        "'cumsum'",
    ),
    "half of the batch": (lambda x: x[:5], "'slice'"),
    "axes merged with the batch": (lambda x: x.reshape(-1, 2), "batch"),
    "the reversed batch": (lambda x: x[::-1], "'rev'"),
    "filters that depend on images": (
        lambda x: jax.lax.conv_general_dilated(
            x,
            x.mean((0, 1))[:1, None, :, None] * jnp.ones((1, 1, 2, 3)),
            *((1, 1), "SAME"),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ),
        "filters that depend on images",
    ),
    "a product of images": (
        lambda x: jnp.einsum("nhwc,nhwd->ncd", x, x),
        "'dot_general'",
    ),
    "no use of the images": (lambda x: jnp.ones(3), "ignores its images"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name):
    function, expected = REFUSED[name]
    with pytest.raises(UnsupportedOperationError, match=expected):
        trace_function(function, (4, 4, 2), FLOAT32)


def test_what_depends_on_parameters_alone_is_computed():
    scale = jnp.arange(1.0, 3.0).reshape(1, 1, 1, 2)
    graph = trace_function(
        lambda x: x * jax.lax.rsqrt(jnp.cumsum(scale, axis=3) + 1e-3),
        (4, 4, 2),
        FLOAT32,
    )
    assert [node.operator for node in graph.nodes] == ["Mul"]
    (found,) = graph.constants.values()
    np.testing.assert_allclose(found.reshape(-1), 1 / np.sqrt([1.001, 3.001]), 1e-6)
