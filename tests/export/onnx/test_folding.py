"""Folding, by the nodes that are left; no ONNX is needed for that."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import kernels as K
from cnn_jax.export.onnx import fold, trace
from cnn_jax.export.onnx.tracing import trace_function

FILTERS = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype(np.float32)
ROW = np.arange(1, 6, dtype=np.float32)


def norm(x, scale=ROW):
    scale = scale.reshape((1,) * (x.ndim - 1) + (-1,))
    return (x - 0.5 * scale) * (scale / 3) + 2 * scale


def folded(function, *, channels=4):
    return fold(trace_function(function, (8, 8, channels), np.dtype("float32")))


def operators(graph):
    return Counter(
        node.operator for node in graph.nodes if node.operator != "Transpose"
    )


def test_norm_becomes_filters_and_bias():
    graph = folded(lambda x: norm(K.conv(x, FILTERS, ROW)))
    (node,) = [each for each in graph.nodes if each.operator == "Conv"]
    weights, bias = (graph.constants[name] for name in node.inputs[1:])
    assert operators(graph) == {"Conv": 1}
    np.testing.assert_allclose(
        weights, FILTERS.transpose(3, 2, 0, 1) * (ROW / 3).reshape(-1, 1, 1, 1), 1e-6
    )
    np.testing.assert_allclose(bias, norm(ROW), 1e-6)


def test_norm_becomes_part_of_a_matrix_product():
    graph = folded(lambda x: norm(x.mean((1, 2)) @ FILTERS[0, 0]))
    assert operators(graph) == {"ReduceMean": 1, "Gemm": 1}


def test_norm_before_a_convolution_stays_as_two_nodes():
    graph = folded(lambda x: K.conv(jax.nn.relu(norm(x, ROW[:4])), FILTERS))
    assert operators(graph) == {"Mul": 1, "Add": 1, "Relu": 1, "Conv": 1}


def test_what_another_node_sees_is_not_folded():
    def function(x):
        y = K.conv(x, FILTERS)
        return y * norm(y)

    assert operators(folded(function)) == {"Conv": 1, "Mul": 2, "Add": 1}


@pytest.mark.parametrize(
    "row",
    [np.arange(64.0).reshape(8, 8, 1), np.arange(8.0).reshape(1, 8, 1)],
    ids=["by position", "by column"],
)
def test_what_differs_by_position_is_not_folded(row):
    graph = folded(lambda x: K.conv(x, FILTERS) + row.astype(np.float32)[None])
    assert operators(graph) == {"Conv": 1, "Add": 1}


def test_what_changes_nothing_goes():
    graph = folded(lambda x: (jax.nn.relu(x) * 3 + 0.0) / 3)
    assert operators(graph) == {"Relu": 1}


def test_bounds_become_one_node():
    graph = folded(lambda x: K.relu6(x) + K.hard_sigmoid(x))
    assert operators(graph)["Clip"] == 2
    assert not {"Min", "Max", "Relu"} & set(operators(graph))


def test_orders_of_axes_meet_at_the_border_alone():
    def function(x):
        y = K.conv(K.max_pool(K.conv(x, FILTERS), 2), FILTERS[:, :, :1], groups=5)
        gate = jax.nn.sigmoid(y.mean((1, 2)) @ np.eye(5, dtype=np.float32))
        return K.layer_norm(y * gate[:, None, None], ROW, ROW, epsilon=1e-6).mean(
            (1, 2)
        )

    graph = folded(function)
    assert [each.operator for each in graph.nodes].count("Transpose") == 1


def test_the_output_has_its_channels_last():
    graph = folded(lambda x: K.conv(x, FILTERS))
    assert not graph.output.channels_first
    assert graph.output.shape == (None, 8, 8, 5)


def test_resnet_is_convolutions_without_norms(make_network):
    graph = fold(trace(make_network("resnet18")))
    counts = operators(graph)
    assert counts == {
        "Cast": 1,
        "Mul": 1,
        "Add": 1 + 8,  # pixels; the residual sums
        "Conv": 20,
        "Relu": 17,
        "MaxPool": 1,
        "ReduceMean": 1,
        "Gemm": 1,
    }
    assert all(len(each.inputs) == 3 for each in graph.nodes if each.operator == "Conv")


def test_names_of_constants_are_never_used_again():
    graph = folded(lambda x: norm(K.conv(x, FILTERS)))
    names = set(graph.constants)
    assert graph.constant(jnp.zeros(3)) not in names
