"""Geometries that XLA gets wrong: those that were reported, with their right values.

Drawn ones are in `test_geometry_draws` (other dtypes) and `test_fatal_checks`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.quick import nightly_except

from cnn_jax import kernels
from cnn_jax.geometry import crop_padding
from cnn_jax.kernels import autodiff, textbook, windowed

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]

# Input, filter and options; each dimension that crops in front is padded behind.
SHIFTED = {
    "pointwise": ((1, 6, 6, 8), (1, 1, 8, 8), {"padding": ((0, 0), (-5, 1))}),
    "rank 1": ((2, 12, 8), (3, 8, 8), {"padding": ((-2, 2),)}),
    "strided": ((2, 12, 16), (3, 16, 8), {"padding": ((-3, 3),), "strides": 2}),
    "dilated": ((1, 9, 8), (3, 8, 8), {"padding": ((-4, 5),), "dilation": 2}),
    "grouped": (
        (1, 6, 6, 16),
        (1, 1, 8, 16),
        {"padding": ((0, 0), (-5, 1)), "groups": 2},
    ),
    "far": ((1, 4, 8), (3, 8, 8), {"padding": ((-4, 9),)}),
    "padded beyond the filter": (
        (1, 6, 6, 8),
        (3, 3, 8, 8),
        {"padding": ((5, 0),) * 2},
    ),
}


def of_ones(module, x_shape, w_shape, options, dtype):
    """A convolution and its gradients; every value is a small integer, exact in all."""
    ones = np.ones if module is textbook else jnp.ones
    x, w = ones(x_shape, dtype), ones(w_shape, dtype)
    y = module.conv(x, w, **options)
    dy = ones(y.shape, dtype)
    return {
        "y": y,
        "dx": module.conv_input_grad(dy, w, input_shape=x_shape, **options),
        "dw": module.conv_filter_grad(x, dy, filter_shape=w_shape, **options),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHIFTED)
@pytest.mark.parametrize("module", nightly_except([kernels], [kernels, autodiff]))
def test_no_convolution_reads_outside_of_its_input(module, name, dtype):
    actual = of_ones(module, *SHIFTED[name], dtype)
    expected = of_ones(textbook, *SHIFTED[name], np.float64)
    for key, value in expected.items():
        np.testing.assert_array_equal(np.asarray(actual[key], np.float64), value, key)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_was_reported(dtype):
    ones = jnp.ones((1, 6, 6, 8), dtype)
    y = kernels.conv(ones, jnp.ones((1, 1, 8, 8), dtype), padding=((0, 0), (-5, 1)))
    np.testing.assert_array_equal(y[0, :, 0], 8)
    np.testing.assert_array_equal(y[0, :, 1], 0)
    dx = kernels.conv_input_grad(
        jnp.ones((1, 9, 9, 8), dtype),
        jnp.ones((3, 3, 8, 8), dtype),
        input_shape=(1, 6, 6, 8),
        padding=((5, 0), (5, 0)),
    )
    assert dx.max() == 72


@pytest.mark.parametrize("module", [kernels, autodiff])
@pytest.mark.parametrize("pair", [(-5, 1), (-3, 4), (6, -4)])
def test_transposed_convolution(module, pair):
    x, w = jnp.ones((1, 6, 8)), jnp.ones((3, 8, 8))
    y = module.conv_transpose(x, w, strides=2, padding=(pair,))
    expected = textbook.conv_transpose(x, w, strides=2, padding=(pair,))
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("module", [kernels, autodiff])
@pytest.mark.parametrize("spread", [1, 2])
def test_general_convolution(module, spread):
    lhs, rhs = jnp.ones((1, 8, 12)), jnp.ones((8, 8, 3))
    arguments = (1,), ((-4, 3),), (spread,), (2,)

    def convolve(lhs, rhs):
        return module.conv_general_dilated(lhs, rhs, *arguments)

    y, pullback = jax.vjp(convolve, lhs, rhs)
    expected = textbook.conv_general_dilated(lhs, rhs, *arguments)
    np.testing.assert_array_equal(y, expected)
    gradients = textbook.conv_general_dilated_grad(
        lhs, rhs, np.ones(y.shape), *arguments
    )
    for got, wanted in zip(pullback(jnp.ones(y.shape)), gradients, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_vmap_and_second_derivatives(x64):
    x_shape, w_shape, options = SHIFTED["rank 1"]
    generator = np.random.default_rng(0)
    x, w = generator.normal(size=(3, *x_shape)), generator.normal(size=w_shape)

    def second(x, w):
        loss = lambda x, w: jnp.sum(kernels.conv(x, w, **options) ** 3)  # noqa: E731
        inner = lambda x, w: jnp.sum(jax.grad(loss)(x, w) ** 2)  # noqa: E731
        return jax.vmap(jax.grad(inner, (0, 1)), (0, None))(x, w)

    wide = jax.jit(second)(x, w)
    narrow = jax.jit(second)(x.astype(np.float32), w.astype(np.float32))
    for got, wanted in zip(narrow, wide, strict=True):
        np.testing.assert_allclose(
            got, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max()
        )


@pytest.mark.parametrize("padding", [((0, 0),), ((1, 1),), ((2, -1),), ((0, -3),)])
def test_what_needs_no_care_is_the_operation_of_lax(padding):
    x, w = jnp.ones((1, 9, 8)), jnp.ones((3, 8, 8))
    numbers = ("NWC", "WIO", "NWC")

    def equations(fn):
        convolve = lambda x, w: fn(x, w, (2,), padding, dimension_numbers=numbers)  # noqa: E731
        return str(jax.make_jaxpr(convolve)(x, w))

    ours = equations(windowed.conv_general_dilated)
    assert ours == equations(jax.lax.conv_general_dilated)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_crop_and_padding_keep_every_entry_in_its_place(size, stride):
    spread = np.zeros((size - 1) * stride + 1, int)
    spread[::stride] = np.arange(1, size + 1)
    for low in range(-len(spread), 4):
        for high in range(-len(spread) - min(low, 0), 4):
            wanted = np.pad(spread, (max(low, 0), max(high, 0)))
            wanted = wanted[max(-low, 0) : len(wanted) - max(-high, 0)]
            start, limit, pair = crop_padding(size, stride, (low, high))
            assert min(pair) >= 0
            rest = spread[start * stride : max((limit - 1) * stride + 1, 0)]
            np.testing.assert_array_equal(np.pad(rest, pair), wanted)


class TestPoolingByOneElement:
    """XLA checks that a window of one element does not crop, and ends the process."""

    X = jnp.arange(64.0).reshape(1, 8, 8, 1)

    @pytest.mark.parametrize("module", [kernels, autodiff])
    @pytest.mark.parametrize("padding", [-1, ((-1, 0), (0, -2)), ((-2, 2), (0, 0))])
    @pytest.mark.parametrize("pool", ["max_pool", "avg_pool"])
    def test_value_and_gradient(self, module, pool, padding):
        options = {"strides": 1, "padding": padding}
        y, pullback = jax.vjp(lambda x: getattr(module, pool)(x, 1, **options), self.X)
        expected = getattr(textbook, pool)(self.X, 1, **options)
        np.testing.assert_array_equal(y, expected)
        dy = np.ones(y.shape)
        gradient = (
            textbook.max_pool_grad(self.X, dy, 1, **options)
            if pool == "max_pool"
            else textbook.avg_pool_grad(dy, 1, input_shape=self.X.shape, **options)
        )
        np.testing.assert_array_equal(pullback(jnp.ones(y.shape))[0], gradient)


@pytest.mark.parametrize("taps", [1, 3])
def test_a_convolution_to_no_channels_has_empty_and_zero_gradients(taps):
    x, w = jnp.ones((2, 4, 3)), jnp.ones((taps, 3, 0))
    y, pullback = jax.vjp(kernels.conv, x, w)
    dx, dw = pullback(y)
    assert (y.shape, dw.shape) == ((2, 4, 0), w.shape)
    np.testing.assert_array_equal(dx, jnp.zeros_like(x))


@pytest.mark.parametrize("drop_block", [kernels.drop_block, autodiff.drop_block])
@pytest.mark.parametrize("block_size", [60, 10**6])
def test_squares_as_large_as_a_map_are_a_few_steps(drop_block, block_size):
    """A window of its own size at each place, or a shift for each, takes minutes."""

    def drop(x):
        return drop_block(x, jax.random.key(0), 0.1, block_size=block_size)

    x = jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32)
    text = str(jax.make_jaxpr(drop)(x))
    assert "reduce_window" not in text
    assert text.count("\n") < 300
