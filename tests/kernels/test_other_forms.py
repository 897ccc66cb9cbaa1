"""The TPU's forms of kernels that choose by platform in their own file."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import kernels
from cnn_jax.analysis.cases import CASES
from cnn_jax.analysis.gradcheck import draw_like
from cnn_jax.geometry import MaxPool, Window
from cnn_jax.kernels import textbook
from cnn_jax.kernels.activation.guided import guided_gradients

# The package's attributes of these names are the kernels.
adaptive_pool = importlib.import_module("cnn_jax.kernels.adaptive_pool")
response_norm = importlib.import_module("cnn_jax.kernels.local_response_norm")
batch_norm = importlib.import_module("cnn_jax.kernels.batch_norm")
batch_norm_pool = importlib.import_module("cnn_jax.kernels.batch_norm_pool")
group_norm = importlib.import_module("cnn_jax.kernels.group_norm")


@pytest.mark.parametrize(("size", "cells"), [(7, 3), (6, 2), (2, 5), (20, 3)])
def test_the_product_averages_and_its_transpose_returns(size, cells, x64):
    x, dy = draw_like([jnp.ones((2, size, 3)), jnp.ones((2, cells, 3))], 0)
    matrix = adaptive_pool._averages(size, cells)
    np.testing.assert_allclose(
        adaptive_pool._product(matrix, 1, x),
        textbook.adaptive_avg_pool(x, cells),
        atol=1e-14,
    )
    np.testing.assert_allclose(
        adaptive_pool._product(matrix.T, 1, dy),
        textbook.adaptive_avg_pool_grad(dy, input_shape=x.shape),
        atol=1e-14,
    )


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (0, 3), (9, 9)])
def test_the_banded_product_sums_windows(before, after, x64):
    x = draw_like(jnp.ones((2, 3, 7)), 0)
    expected = [
        x[..., max(i - before, 0) : i + after + 1].sum(-1) for i in range(x.shape[-1])
    ]
    for form in (response_norm._banded_product, response_norm._sum_of_shifts):
        np.testing.assert_allclose(
            form(x, before=before, after=after), np.stack(expected, -1), atol=1e-14
        )


NORMS = ("batch_norm", "layer_norm", "group_norm")
NORM_CASES = [case for case in CASES if case.kernel in NORMS]


@pytest.fixture
def half_precision_forms(monkeypatch):
    """Has a TPU's forms for half-precision inputs run in any dtype."""
    for module in (batch_norm, batch_norm_pool):
        monkeypatch.setattr(module, "subtracted", lambda *arguments: None)
    monkeypatch.setattr(group_norm, "_reads_once", lambda *arguments: True)
    jax.clear_caches()  # of programs traced before
    with kernels.target_platform("tpu"):
        yield
    jax.clear_caches()


@pytest.mark.parametrize("case", NORM_CASES, ids=str)
def test_half_precision_forms_are_right_in_float64(
    case, proofs, x64, half_precision_forms
):
    evaluation = proofs.evaluate(case, np.float64)
    expected = proofs.evaluate_by_textbook(
        case, evaluation.arguments, evaluation.cotangent
    )
    proofs.assert_close((evaluation.value, evaluation.gradients), expected, 1e-12)
    proofs.assert_close(evaluation.gradients, evaluation.twin_gradients, 1e-12)


@pytest.mark.parametrize("case", NORM_CASES, ids=str)
def test_half_precision_forms_stay_near_float64(case, proofs):
    with kernels.target_platform("tpu"):
        evaluation = proofs.evaluate(case, jnp.bfloat16, twin=False)
    expected = proofs.evaluate_by_textbook(
        case, evaluation.arguments, evaluation.cotangent
    )
    found = (evaluation.value, evaluation.gradients)
    proofs.assert_close(found, expected, proofs.TOLERANCES[jnp.bfloat16])


RELU_POOL = {"activation": kernels.relu, "pool": MaxPool(3, 2, 1)}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_pooling_before_the_activation_differs_in_no_bit(dtype, monkeypatch):
    """However entries are rounded, and whichever sign the scale has."""
    x, scale, bias = draw_like([jnp.ones((2, 9, 8, 6)), jnp.ones(6), jnp.ones(6)], 0)
    assert (scale < 0).any()
    assert (scale > 0).any()

    def evaluate(x, scale, bias):
        return kernels.batch_norm(
            x.astype(dtype), scale, bias, epsilon=1e-3, **RELU_POOL
        )

    with kernels.target_platform("tpu"):
        before = evaluate(x, scale, bias)
        with monkeypatch.context() as patch:
            patch.setattr(batch_norm, "is_after_maximum", lambda *arguments: False)
            jax.clear_caches()
            after = evaluate(x, scale, bias)
        jax.clear_caches()
    for ours, theirs in zip(before, after, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"activation": None}, True),
        ({"activation": kernels.silu}, False),  # it decreases below -1.28
        ({"activation": kernels.hard_swish}, False),
        ({"padding": 3}, False),  # a window that holds nothing but padding
        ({"padding": -1}, False),
        ({"sizes": 9}, False),  # no window fits
        ({"target": "gpu"}, False),
        ({"target": "cpu"}, False),
    ],
)
def test_when_the_maximum_may_come_first(change, expected):
    given = {"activation": kernels.relu, "target": "tpu", "sizes": 3, "padding": 1}
    given |= change
    window = Window.resolve((6, 6), given["sizes"], strides=2, padding=given["padding"])
    found = batch_norm_pool.is_after_maximum(
        given["activation"], window, given["target"]
    )
    assert found == expected


def test_guided_gradients_are_of_each_entry():
    window = Window.resolve((6, 6), 3, strides=2, padding=1)
    with guided_gradients():
        assert not batch_norm_pool.is_after_maximum(kernels.relu, window, "tpu")
