"""Filters as images, and neighbours in feature space by sorting everything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.quick import QUICK

import cnn_jax
from cnn_jax.analysis.features import first_layer_filters, nearest_neighbours


def test_filters_are_images_around_gray(generator):
    kernel = generator.normal(size=(3, 2, 3, 5)).astype(np.float32)
    kernel[..., 2] = 0
    deeper = generator.normal(size=(3, 3, 5, 4))
    variables = {"params": {"a": {"kernel": deeper}, "b": {"kernel": kernel}}}
    filters = first_layer_filters(variables)
    assert filters.shape == (5, 3, 2, 3)
    assert filters.dtype == jnp.float32
    np.testing.assert_array_equal(filters[2], 0.5)
    for index in (0, 1, 3, 4):
        expected = kernel[..., index] / np.abs(kernel[..., index]).max()
        np.testing.assert_allclose(filters[index], 0.5 + expected / 2, rtol=1e-6)
    by_path = first_layer_filters(variables, path="params/a/kernel")
    assert by_path.shape == (4, 3, 3, 5)


@pytest.mark.parametrize("name", QUICK)
def test_every_model_has_one_first_layer(name, abstract_variables):
    variables = abstract_variables(name)
    filters = jax.eval_shape(first_layer_filters, variables)
    channels = cnn_jax.model_info(name).input_shape[-1]
    assert filters.shape[-1] == channels


def test_a_first_layer_that_is_not_clear_must_be_named():
    ones = {"kernel": np.ones((3, 3, 1, 2))}
    with pytest.raises(ValueError, match="2 kernels have 1 input channels"):
        first_layer_filters({"a": ones, "b": ones})
    with pytest.raises(ValueError, match="no kernel has three input channels or one"):
        first_layer_filters({"a": {"kernel": np.ones((3, 3, 2, 2))}})
    with pytest.raises(ValueError, match=r"path: got 'c', expected a kernel"):
        first_layer_filters({"a": ones}, path="c")


@pytest.mark.parametrize("batch_size", [4, 256])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbours_by_sorting(generator, metric, batch_size):
    features = generator.normal(size=(30, 5)).astype(np.float32) + 3
    queries = generator.normal(size=(7, 5)).astype(np.float32)
    indices, scores = nearest_neighbours(
        features, queries, 4, metric=metric, batch_size=batch_size
    )
    assert indices.shape == scores.shape == (7, 4)
    assert indices.dtype == jnp.int32
    for query, found, score in zip(queries, indices, scores, strict=True):
        if metric == "cosine":
            lengths = np.linalg.norm(features, axis=1) * np.linalg.norm(query)
            values = features @ query / lengths
            expected = np.argsort(-values, kind="stable")[:4]
        else:
            values = np.sqrt(((features - query) ** 2).sum(axis=1))
            expected = np.argsort(values, kind="stable")[:4]
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(score, values[expected], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_of_equally_near_ones_the_first_comes_first(metric):
    rows = np.array([[3, 4], [0, 1], [3, 4], [1, 0], [3, 4]], np.float32)
    indices, _ = nearest_neighbours(rows, rows[:1], 4, metric=metric)
    assert indices[0, :3].tolist() == [0, 2, 4]


def test_neighbours_far_from_the_origin_are_told_apart():
    """There |a|^2 + |b|^2 - 2 a b would leave nothing but rounding."""
    rows = jnp.asarray([[4096.0, 1.0], [4096.0, 1.125], [4096.0, 1.25]])
    query = jnp.asarray([[4096.0, 1.2]])
    indices, distances = nearest_neighbours(rows, query, 3, metric="euclidean")
    assert indices.tolist() == [[2, 1, 0]]
    np.testing.assert_allclose(distances, [[0.05, 0.075, 0.2]], rtol=1e-5)


def test_vectors_of_zeros_and_of_large_numbers():
    rows = jnp.asarray([[0.0, 0.0], [1e30, 1e30], [-1.0, -1.0]])
    indices, scores = nearest_neighbours(rows, jnp.asarray([[1e-30, 1e-30]]), 3)
    assert indices.tolist() == [[1, 0, 2]]
    np.testing.assert_allclose(scores, [[1.0, 0.0, -1.0]], atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (((3, 2), (1, 3), 1), {}, r"\(n, d\) and \(m, d\)"),
        (((3, 2), (2,), 1), {}, r"\(n, d\) and \(m, d\)"),
        (((3, 2), (1, 2), 4), {}, "got k 4, expected 1 to 3"),
        (((3, 2), (1, 2), 0), {}, "got k 0"),
        (((3, 2), (1, 2), 1), {"metric": "angle"}, "'angle', expected one of cosine"),
        (((3, 2), (1, 2), 1), {"batch_size": 0}, "batch_size 0"),
    ],
)
def test_refuses(arguments, options, message):
    features, queries, k = arguments
    with pytest.raises(ValueError, match=message):
        nearest_neighbours(jnp.ones(features), jnp.ones(queries), k, **options)
