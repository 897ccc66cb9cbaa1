import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import kernels
from cnn_jax.analysis import gradcheck
from cnn_jax.analysis.cases import CASES
from cnn_jax.analysis.gradcheck import relative_error, run_gradcheck


@jax.custom_vjp
def overstate(x):
    return x


# The forward pass is exact and the gradient 1 % too large.
overstate.defvjp(lambda x: (x, None), lambda _, dx: (1.01 * dx,))


def conv_with_error_in(planted):
    def conv(x, w, b=None, **options):
        operands = {"x": x, "w": w, "b": b}
        if operands[planted] is not None:
            operands[planted] = overstate(operands[planted])
        return kernels.conv(**operands, **options)

    return conv


def failed(rows):
    return {(row.kernel, row.argument) for row in rows if not row.passed}


# The whole table passes, too: tests/kernels/test_proofs.py goes through it row by row.
def test_the_kernels_pass_and_every_gradient_has_a_row(few_cases):
    rows = run_gradcheck()
    assert failed(rows) == set()
    found = {(row.kernel, row.argument): row for row in rows}
    assert len(found) == len(rows)
    for case in CASES:
        assert found[case.kernel, "output"].num_cases == 1
    for expected in (
        ("conv", "dx"),
        ("conv", "dw"),
        ("conv", "db"),
        ("conv_input_grad", "output"),
        ("conv_filter_grad", "output"),
        ("conv_bias_grad", "output"),
        ("max_pool", "dx"),
        ("max_pool_grad", "output"),
        ("avg_pool_grad", "output"),
        ("dense", "dw"),
        ("batch_norm", "dscale"),
        ("batch_norm_inference", "dvar"),
        ("softmax_cross_entropy", "dlogits"),
    ):
        assert expected in found
    for row in rows:
        assert 0.0 <= row.worst_relative_error <= row.tolerance


@pytest.fixture
def few_cases(monkeypatch):
    """One row for each kernel, which suffices where an error is planted."""
    first = {case.kernel: case for case in reversed(CASES)}
    monkeypatch.setattr(gradcheck, "CASES", tuple(first.values()))


@pytest.mark.parametrize("planted", ["x", "w", "b"])
def test_an_error_of_one_percent_fails_its_row_and_no_other(planted, few_cases):
    rows = run_gradcheck({"conv": conv_with_error_in(planted)})
    assert failed(rows) == {("conv", f"d{planted}")}
    worst = next(row for row in rows if row.argument == f"d{planted}")
    assert worst.worst_relative_error == pytest.approx(0.01)
    assert {row.argument for row in rows} == {"output", "dx", "dw", "db"}


@pytest.mark.parametrize(
    "named", ["conv_input_grad", "conv_filter_grad", "conv_bias_grad", "avg_pool_grad"]
)
def test_an_error_in_a_named_gradient_fails(named, few_cases):
    implementations = types.SimpleNamespace(
        **{
            named: lambda *args, **options: (
                1.01 * getattr(kernels, named)(*args, **options)
            )
        }
    )
    assert (named, "output") in failed(run_gradcheck(implementations))


@pytest.mark.parametrize(
    "relu",
    [
        lambda x: kernels.relu(x) * jnp.nan,
        lambda x: kernels.relu(x).astype(jnp.float32),
        lambda x: kernels.relu(x)[..., :1],
        lambda x: kernels.relu(x) + 0.01,
    ],
    ids=["NaN", "dtype", "shape", "value"],
)
def test_a_wrong_output_fails(relu, few_cases):
    def wrong(x):
        return relu(x)

    assert ("relu", "output") in failed(run_gradcheck({"relu": wrong}))


def test_needs_at_least_one_kernel():
    with pytest.raises(ValueError, match="holds none of conv, "):
        run_gradcheck({})


def test_relative_error():
    ones = np.ones(3)
    assert relative_error(ones, ones) == 0.0
    assert relative_error(ones * 1.01, ones) == pytest.approx(0.01)
    assert relative_error(ones, ones[:2]) == math.inf
    assert relative_error(ones, ones.astype(np.float32)) == math.inf
    assert relative_error(ones * np.nan, ones) == math.inf
    assert relative_error(ones * np.nan, ones * np.nan) == math.inf
    assert relative_error(ones, 0 * ones) == math.inf
    assert relative_error(0 * ones, 0 * ones) == 0.0
    assert relative_error(ones[:0], ones[:0]) == 0.0
    mixed = np.array([-np.inf, 1.0, 2.0])
    assert relative_error(mixed, mixed) == 0.0
    almost = np.array([-np.inf, 1.0, 2.02])
    assert relative_error(almost, mixed) == pytest.approx(0.01)
    assert relative_error(-mixed, mixed) == math.inf
