"""The bytes kept for the backward pass: never more than autodiff keeps, often half.

The named gradients are backward passes themselves. What a derivative of theirs keeps is
a matter of second order, and of JAX's rules for the forms they are computed in.
"""

import functools

import jax
import jax.numpy as jnp
import pytest

from cnn_jax import kernels
from cnn_jax.analysis.cases import CASES
from cnn_jax.analysis.residuals import residual_bytes
from cnn_jax.kernels import autodiff

FIRST_ORDER_CASES = [case for case in CASES if not case.kernel.endswith("_grad")]

# Kernels that keep at most half of what autodiff keeps.
HALVED = {
    *("max_pool", "dropout", "stochastic_depth", "silu"),
    *("spatial_dropout", "drop_block"),
    *("batch_norm", "batch_norm_inference"),
}

# The table's cases are tiny. With this many times the examples, activations outweigh
# vectors and keys as they do in a network.
TIMES = 1024


def measure(module, case):
    large = case.with_batch(TIMES)
    fn = functools.partial(getattr(module, case.kernel), **large.options)
    return residual_bytes(fn, *batched_shapes(case))


def batched_shapes(case):
    """The arguments' shapes in `case.with_batch(TIMES)`, without drawing them."""
    shapes = []
    for name, array in case.draw(0, jnp.bfloat16).items():
        array = jax.eval_shape(lambda array=array: array)
        if case.has_examples(name, array):
            shape = (TIMES * array.shape[0], *array.shape[1:])
            array = jax.ShapeDtypeStruct(shape, array.dtype)
        shapes.append(array)
    return shapes


def is_halved(case):
    if case.options.get("rate") == 0.0:
        return False  # the identity, which keeps nothing in both
    return case.kernel in HALVED


@pytest.mark.parametrize("target", ["cpu", "gpu"])
@pytest.mark.parametrize("case", FIRST_ORDER_CASES, ids=str)
def test_keeps_no_more_than_autodiff(case, target):
    with kernels.target_platform(target):
        own, twin = (measure(module, case) for module in (kernels, autodiff))
    limit = twin / 2 if is_halved(case) else twin
    assert own <= limit, f"{case}: {own} bytes, autodiff keeps {twin}"
