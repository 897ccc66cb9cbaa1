"""One rule for each corner, written down and equal to JAX's autodiff of lax."""

import functools
import inspect
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnn_jax import kernels
from cnn_jax.analysis.cases import CASES
from cnn_jax.analysis.residuals import residual_bytes
from cnn_jax.kernels import autodiff, textbook

pytestmark = pytest.mark.usefixtures("light_compilation")

INF, NAN = np.inf, np.nan

# Ties, NaN and windows of nothing but -inf are frequent among draws of these.
CORNERS = [0.0, 1.0, 1.0, NAN, INF, -INF, -INF, -INF]


def row(*values):
    """One image with one row and one channel."""
    return jnp.asarray(values, jnp.float32)[None, :, None]


def pooled(x, dy=None, **options):
    """The values under the windows and what the windows send back, as lists."""
    y, vjp_fn = jax.vjp(lambda x: kernels.max_pool(x, **options), x)
    dy = jnp.arange(1.0, y.size + 1).reshape(y.shape) if dy is None else dy
    return y.ravel().tolist(), vjp_fn(dy)[0].ravel().tolist()


class TestMaxPool:
    def test_the_first_of_equal_maxima_gets_the_gradient(self):
        assert pooled(row(2, 2, 1, 3, 3, 3), window=3) == ([2, 3], [1, 0, 0, 2, 0, 0])

    def test_first_means_row_major(self):
        x = jnp.asarray([[0.0, 5.0], [5.0, 5.0]])[None, :, :, None]
        assert pooled(x, window=2)[1] == [0, 1, 0, 0]

    def test_overlapping_windows_add_up(self):
        assert pooled(row(1, 3, 3, 2), window=2, strides=1) == (
            [3, 3, 3],
            [0, 1 + 2, 3, 0],
        )

    def test_a_window_of_infinities_selects_its_first_position(self):
        assert pooled(row(-INF, -INF, 1, -INF), window=2) == ([-INF, 1], [1, 0, 2, 0])

    def test_padding_counts_as_minus_infinity_and_swallows_its_gradient(self):
        x = row(-INF, -INF, 4, 4)
        options = {"window": 2, "strides": 2, "padding": ((1, 1),)}
        # The first window holds (padding, -inf) and selects the padding.
        assert pooled(x, **options) == ([-INF, 4, 4], [0, 0, 2, 3])
        assert pooled(row(1, 2), window=1, padding=((1, 1),)) == (
            [-INF, 1, 2, -INF],
            [2, 3],
        )

    def test_nan_is_the_maximum_and_loses_the_gradient_to_what_follows(self):
        values, gradient = pooled(row(NAN, 1, 2, NAN, 1, NAN), window=2)
        assert np.isnan(values).all()
        assert gradient == [0, 1, 0, 2, 0, 3]

    @pytest.mark.parametrize("padding", ["VALID", "SAME", ((1, 2), (0, 1))])
    @pytest.mark.parametrize("target", ["cpu", "gpu", "tpu"])
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
    def test_drawn_corners_match_jax_and_the_textbook(
        self, padding, target, dtype, generator
    ):
        options = {"window": 3, "strides": 2, "padding": padding}
        x = jnp.asarray(generator.choice(CORNERS, (4, 9, 8, 3)), dtype)

        def lax_pool(x):
            pads = padding if isinstance(padding, str) else ((0, 0), *padding, (0, 0))
            lowest = np.asarray(-np.inf, dtype)
            return jax.lax.reduce_window(
                x, lowest, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pads
            )

        expected, vjp_fn = jax.vjp(lax_pool, x)
        # Small integers: no dtype rounds their sums.
        dy = jnp.asarray(generator.integers(-8, 9, expected.shape), dtype)

        @jax.jit
        def evaluate(x, dy):
            value, vjp_fn = jax.vjp(lambda x: kernels.max_pool(x, **options), x)
            return value, vjp_fn(dy)[0], kernels.max_pool_grad(x, dy, **options)

        with kernels.target_platform(target):
            value, dx, named = evaluate(x, dy)
        # NumPy's comparison of bfloat16 does not treat NaN as equal to NaN.
        x, value, expected, dy, dx, named, expected_dx = (
            np.asarray(a, np.float64)
            for a in (x, value, expected, dy, dx, named, vjp_fn(dy)[0])
        )
        np.testing.assert_array_equal(value, expected)
        np.testing.assert_array_equal(dx, expected_dx)
        np.testing.assert_array_equal(named, dx)
        np.testing.assert_array_equal(textbook.max_pool(x, **options), value)
        np.testing.assert_array_equal(textbook.max_pool_grad(x, dy, **options), dx)

    @pytest.mark.parametrize(
        "options",
        [
            {"window": (3, 2), "strides": 2, "padding": 2, "dilation": (2, 3)},
            {"window": 2, "padding": ((-1, 0), (0, -2))},
        ],
        ids=["dilated", "cropped"],
    )
    def test_geometry_that_xla_cannot_differentiate_works_on_every_target(
        self, options, generator
    ):
        # Ties, NaN and -inf too, by the written rule: XLA has none to compare with.
        x = jnp.asarray(generator.choice(CORNERS, (4, 7, 6, 2)), jnp.float32)
        expected = textbook.max_pool(x, **options)
        dy = jnp.asarray(generator.integers(-8, 9, expected.shape), jnp.float32)

        @jax.jit
        def evaluate(x, dy):
            value, vjp_fn = jax.vjp(lambda x: kernels.max_pool(x, **options), x)
            return value, vjp_fn(dy)[0], kernels.max_pool_grad(x, dy, **options)

        for target in ("cpu", "gpu", "tpu"):
            with kernels.target_platform(target):
                value, dx, named = evaluate(x, dy)
            np.testing.assert_array_equal(value, expected)
            expected_dx = textbook.max_pool_grad(x, dy, **options)
            np.testing.assert_array_equal(dx, expected_dx)
            np.testing.assert_array_equal(named, dx)


def grouped_as_one(case):
    return case.options.get("groups", 1) > 1 and "depthwise" not in case.label


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            marks=pytest.mark.xfail(
                grouped_as_one(case),
                reason="the CPU's form multiplies the other groups by zeros",
                strict=True,
            ),
        )
        for case in CASES
        if case.kernel == "conv"
    ],
    ids=str,
)
def test_what_is_not_finite_reaches_the_windows_that_see_it(case, bad):
    """Not the neighbours, nor the other groups, whatever form computes them."""
    arguments = case.draw(0, jnp.float32)
    middle = tuple(size // 2 for size in arguments["x"].shape)
    arguments["x"] = arguments["x"].at[middle].set(bad)
    value = jax.jit(lambda a: case.apply(kernels.conv, a))(arguments)
    with np.errstate(invalid="ignore"):
        expected = case.apply(textbook.conv, jax.tree.map(np.asarray, arguments))
    np.testing.assert_array_equal(np.isfinite(value), np.isfinite(expected))


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_an_average_is_not_finite_where_its_window_is_not(bad):
    x = row(1, 2, bad, 4, 5, 6)
    y, vjp_fn = jax.vjp(lambda x: kernels.avg_pool(x, 2), x)
    np.testing.assert_array_equal(y.ravel(), [1.5, bad, 5.5])
    # Linear: the gradient does not depend on x. A bad cotangent stays in its window.
    assert vjp_fn(jnp.ones_like(y))[0].ravel().tolist() == [0.5] * 6
    dx = vjp_fn(row(1, bad, 1))[0].ravel()
    np.testing.assert_array_equal(dx, [0.5, 0.5, bad, bad, 0.5, 0.5])
    np.testing.assert_array_equal(kernels.global_avg_pool(x).ravel(), [bad])


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_an_adapted_average_is_not_finite_where_its_cell_is_not(bad):
    # The cells: 1 and 2; 2, bad and 4; 4 and 5.
    x = row(1, 2, bad, 4, 5)
    y, vjp_fn = jax.vjp(lambda x: kernels.adaptive_avg_pool(x, 3), x)
    np.testing.assert_array_equal(y.ravel(), [1.5, bad, 4.5])
    dx = vjp_fn(row(1, bad, 1))[0].ravel()
    np.testing.assert_array_equal(dx, [0.5, bad, bad, bad, 0.5])
    same = kernels.adaptive_avg_pool(x, 5)
    np.testing.assert_array_equal(same, x)


@pytest.mark.parametrize(
    ("bad", "beside", "reach"), [(NAN, NAN, 2), (INF, 0, 1), (-INF, 0, 1)]
)
def test_a_response_is_not_finite_where_its_window_is_not(bad, beside, reach):
    x = jnp.asarray([1.0, 1.0, 1.0, bad, 1.0, 1.0, 1.0])
    fn = functools.partial(kernels.local_response_norm, size=3, alpha=1.0, k=1.0)
    y, vjp_fn = jax.vjp(fn, x)
    far = 3.0**-0.75
    np.testing.assert_allclose(
        y, [far, 4**-0.75, beside, NAN, beside, 4**-0.75, far], rtol=1e-6
    )
    dx = vjp_fn(jnp.ones_like(x))[0]
    np.testing.assert_array_equal(np.isnan(dx), abs(np.arange(7) - 3) <= reach)
    reference = jax.vjp(
        functools.partial(autodiff.local_response_norm, size=3, alpha=1.0, k=1.0), x
    )[1](jnp.ones_like(x))[0]
    np.testing.assert_array_equal(np.isnan(dx), np.isnan(reference))


class TestActivations:
    def test_relu_at_zero_and_nan(self):
        x = jnp.asarray([-1.0, -0.0, 0.0, NAN, 2.0, INF])
        y, vjp_fn = jax.vjp(kernels.relu, x)
        np.testing.assert_array_equal(y, jax.nn.relu(x))
        assert vjp_fn(jnp.ones(6))[0].tolist() == [0, 0, 0, 0, 1, 1]
        assert jax.vjp(jax.nn.relu, x)[1](jnp.ones(6))[0].tolist() == [0, 0, 0, 0, 1, 1]

    @pytest.mark.parametrize(
        ("kernel", "slopes"),
        [
            ("relu", {-1: 0, 0: 0, 0.5: 1, 3: 1, 6: 1}),
            ("relu6", {-1: 0, 0: 0, 0.5: 1, 3: 1, 6: 0, 7: 0}),
            ("hard_sigmoid", {-4: 0, -3: 0, -2.5: 1 / 6, 0: 1 / 6, 3: 0, 4: 0}),
            ("hard_swish", {-4: 0, -3: 0, -1.5: 0, 0: 0.5, 3: 1, 4: 1}),
        ],
    )
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
    def test_a_clamp_has_derivative_zero_where_it_bends(self, kernel, slopes, dtype):
        fn, like = getattr(kernels, kernel), getattr(jax.nn, kernel)
        x = jnp.asarray([*slopes, NAN], dtype)
        # A clamp's derivative at NaN is 0, a product's is NaN.
        expected = [*slopes.values(), NAN if kernel == "hard_swish" else 0]
        y, vjp_fn = jax.vjp(fn, x)
        np.testing.assert_allclose(
            y.astype(jnp.float32),
            like(x.astype(jnp.float32)),
            rtol=float(jnp.finfo(dtype).eps),
        )
        dx = vjp_fn(jnp.ones_like(x))[0]
        # NumPy finds no bfloat16 NaN equal to another.
        dx, rounded = dx.astype(jnp.float32), jnp.asarray(expected, dtype)
        np.testing.assert_array_equal(dx, rounded.astype(jnp.float32))
        by_jax = jax.vjp(like, x.astype(jnp.float32))[1](jnp.ones(x.shape))[0]
        np.testing.assert_allclose(by_jax, expected, rtol=1e-6)

    @pytest.mark.parametrize("kernel", ["relu", "relu6", "hard_sigmoid", "hard_swish"])
    def test_the_rule_at_corners_holds_for_second_derivatives(self, kernel):
        x = jnp.asarray([-3.0, 0.0, 3.0, 6.0])

        def slope(fn):
            return jax.grad(lambda x: jnp.sum(x * fn(x) + jnp.sin(fn(x))))

        actual, reference = (
            jax.jvp(slope(getattr(module, kernel)), (x,), (jnp.ones(4),))[1]
            for module in (kernels, autodiff)
        )
        np.testing.assert_allclose(actual, reference, rtol=1e-6, atol=1e-6)

    def test_corners_are_those_of_x_where_low_precision_rounds_them_away(self):
        # The bfloat16 numbers next to -3 and 3 (x + 3 rounds to 6 in bfloat16).
        x = jnp.asarray([-2.984375, 2.984375], jnp.bfloat16)
        dx = jax.vjp(kernels.hard_sigmoid, x)[1](jnp.ones_like(x))[0]
        np.testing.assert_array_equal(dx, jnp.full(2, 1 / 6, jnp.bfloat16))

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
    def test_far_tails_are_exact(self, dtype):
        x = jnp.asarray([-1e4, -200.0, 200.0, 1e4], dtype)
        gated = ([0, 0, x[2], x[3]], [0, 0, 1, 1])
        for fn, value, slope in (
            (kernels.sigmoid, [0, 0, 1, 1], [0, 0, 0, 0]),
            (kernels.hard_sigmoid, [0, 0, 1, 1], [0, 0, 0, 0]),
            (kernels.relu6, [0, 0, 6, 6], [0, 0, 0, 0]),
            (kernels.relu, *gated),
            (kernels.silu, *gated),
            (kernels.hard_swish, *gated),
            (kernels.gelu, *gated),
            (functools.partial(kernels.gelu, approximate=False), *gated),
        ):
            y, vjp_fn = jax.vjp(fn, x)
            np.testing.assert_array_equal(y, jnp.asarray(value, dtype))
            np.testing.assert_array_equal(
                vjp_fn(jnp.ones_like(x))[0], jnp.asarray(slope, dtype)
            )

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
    def test_derivatives_at_infinity_are_their_limits(self, dtype):
        largest = float(jnp.finfo(dtype).max)
        x = jnp.asarray([-INF, -largest, largest, INF], dtype)
        for fn, slope in (
            (kernels.sigmoid, [0, 0, 0, 0]),
            (kernels.hard_sigmoid, [0, 0, 0, 0]),
            (kernels.relu6, [0, 0, 0, 0]),
            (kernels.relu, [0, 0, 1, 1]),
            (kernels.silu, [0, 0, 1, 1]),
            (kernels.hard_swish, [0, 0, 1, 1]),
            (kernels.gelu, [0, 0, 1, 1]),
            (functools.partial(kernels.gelu, approximate=False), [0, 0, 1, 1]),
        ):
            y, vjp_fn = jax.vjp(fn, x)
            assert not np.isnan(y[1:]).any()
            dx = vjp_fn(jnp.ones_like(x))[0]
            np.testing.assert_array_equal(dx, jnp.asarray(slope, dtype))

    @pytest.mark.parametrize(
        "fn",
        [
            kernels.sigmoid,
            kernels.silu,
            kernels.gelu,
            functools.partial(kernels.gelu, approximate=False),
        ],
    )
    def test_nan_stays_nan(self, fn):
        y, vjp_fn = jax.vjp(fn, jnp.asarray([NAN]))
        assert np.isnan(y).all()
        assert np.isnan(vjp_fn(jnp.ones(1))[0]).all()

    def test_gelu_is_the_tanh_form_unless_told_otherwise(self):
        x = jnp.linspace(-4.0, 4.0, 33)
        for options in ({}, {"approximate": True}, {"approximate": False}):
            np.testing.assert_allclose(
                kernels.gelu(x, **options),
                jax.nn.gelu(x, **options),
                rtol=1e-5,
                atol=1e-6,
            )
        with pytest.raises(TypeError, match="positional"):
            kernels.gelu(x, False)


def zeros(*shape):
    return jnp.zeros(shape, jnp.float32)


EMPTY_BATCH = {
    "conv": (kernels.conv, (zeros(0, 5, 5, 2), zeros(3, 3, 2, 4), zeros(4))),
    "depthwise": (
        lambda x, w: kernels.conv(x, w, groups=2, strides=2),
        (zeros(0, 5, 5, 2), zeros(3, 3, 1, 4)),
    ),
    "pointwise": (kernels.conv, (zeros(0, 5, 5, 2), zeros(1, 1, 2, 4))),
    "conv_transpose": (
        lambda *a: kernels.conv_transpose(*a, strides=2),
        (zeros(0, 5, 5, 2), zeros(3, 3, 2, 4), zeros(4)),
    ),
    "conv_general_dilated": (
        lambda x, w: kernels.conv_general_dilated(x, w, (2, 1), "SAME"),
        (zeros(0, 2, 5, 4), zeros(4, 2, 3, 3)),
    ),
    "dense": (kernels.dense, (zeros(0, 3), zeros(3, 2), zeros(2))),
    "max_pool": (lambda x: kernels.max_pool(x, 2), (zeros(0, 4, 4, 2),)),
    "avg_pool": (lambda x: kernels.avg_pool(x, 2), (zeros(0, 4, 4, 2),)),
    "global_avg_pool": (kernels.global_avg_pool, (zeros(0, 4, 4, 2),)),
    **{
        name: (getattr(kernels, name), (zeros(0, 3),))
        for name in (
            *("relu", "relu6", "sigmoid", "hard_sigmoid"),
            *("silu", "hard_swish", "gelu"),
        )
    },
    "layer_norm": (
        lambda *a: kernels.layer_norm(*a, epsilon=1e-6),
        (zeros(0, 3, 4), zeros(4), zeros(4)),
    ),
    "group_norm": (
        lambda *a: kernels.group_norm(*a, num_groups=2, epsilon=1e-6),
        (zeros(0, 3, 4), zeros(4), zeros(4)),
    ),
    "grouped": (
        lambda x, w: kernels.conv(x, w, groups=2),
        (zeros(0, 5, 5, 4), zeros(3, 3, 2, 4)),
    ),
    "conv_input_grad": (
        lambda dy, w: kernels.conv_input_grad(dy, w, input_shape=(0, 5, 5, 2)),
        (zeros(0, 5, 5, 4), zeros(3, 3, 2, 4)),
    ),
    "max_pool, dilated": (
        lambda x: kernels.max_pool(x, 2, dilation=2),
        (zeros(0, 4, 4, 2),),
    ),
    "max_pool_grad": (
        lambda x, dy: kernels.max_pool_grad(x, dy, 2),
        (zeros(0, 4, 4, 2), zeros(0, 2, 2, 2)),
    ),
    "avg_pool_grad": (
        lambda dy: kernels.avg_pool_grad(dy, 2, input_shape=(0, 4, 4, 2)),
        (zeros(0, 2, 2, 2),),
    ),
    "softmax_cross_entropy": (
        lambda z: kernels.softmax_cross_entropy(z, jnp.zeros(0, jnp.int32)),
        (zeros(0, 3),),
    ),
    "batch_norm_inference": (
        lambda *a: kernels.batch_norm_inference(*a, epsilon=1e-3),
        (zeros(0, 3, 2), zeros(2), zeros(2) + 1, zeros(2), zeros(2)),
    ),
    "batch_norm_inference, relu": (
        lambda *a: kernels.batch_norm_inference(
            *a, epsilon=1e-3, activation=kernels.relu
        ),
        (zeros(0, 3, 2), zeros(2), zeros(2) + 1, zeros(2), zeros(2)),
    ),
    "squeeze_excite": (
        kernels.squeeze_excite,
        (zeros(0, 3, 3, 4), zeros(4, 2), zeros(2), zeros(2, 4), zeros(4)),
    ),
    "dropout": (lambda x: kernels.dropout(x, jax.random.key(0), 0.5), (zeros(0, 3),)),
    "adaptive_avg_pool": (
        lambda x: kernels.adaptive_avg_pool(x, 2),
        (zeros(0, 3, 3, 4),),
    ),
    "local_response_norm": (kernels.local_response_norm, (zeros(0, 3),)),
}


@pytest.mark.parametrize("name", EMPTY_BATCH)
def test_an_empty_batch_has_empty_results_and_zero_gradients(name):
    fn, arguments = EMPTY_BATCH[name]
    value, vjp_fn = jax.vjp(fn, *arguments)
    assert value.shape[0] == 0
    gradients = vjp_fn(value)
    chex.assert_trees_all_equal(gradients, jax.tree.map(jnp.zeros_like, arguments))


def test_an_empty_batch_gives_the_filter_no_gradient():
    for dw in (
        kernels.conv_filter_grad(
            zeros(0, 5, 5, 2), zeros(0, 5, 5, 4), filter_shape=(3, 3, 2, 4)
        ),
        kernels.conv_bias_grad(zeros(0, 5, 5, 4)),
    ):
        assert not dw.any()
        assert dw.shape in ((3, 3, 2, 4), (4,))


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 2, "dilation": 1},
        {"groups": 4, "strides": 2},
        {"groups": 1, "dilation": 3},
    ],
    ids=["grouped", "depthwise", "dilated"],
)
def test_no_form_of_a_convolution_needs_its_window_to_fit(options):
    x, w = jnp.ones((2, 3, 7, 4)), jnp.ones((4, 3, 4 // options["groups"], 4))

    def conv(x, w):
        return kernels.conv(x, w, padding="VALID", **options)

    value, vjp_fn = jax.vjp(conv, x, w)
    assert value.shape[1] == 0
    chex.assert_trees_all_equal(vjp_fn(value), (jnp.zeros_like(x), jnp.zeros_like(w)))


@pytest.mark.parametrize("strides", [1, 2])
def test_a_window_larger_than_the_input_never_fits(strides):
    x, w = jnp.ones((2, 3, 7, 2)), jnp.ones((4, 3, 2, 5))

    def conv(x, w):
        return kernels.conv(x, w, strides=strides, padding="VALID")

    value, vjp_fn = jax.vjp(conv, x, w)
    assert value.shape == (2, 0, 5 if strides == 1 else 3, 5)
    dx, dw = vjp_fn(value)
    assert dx.shape == x.shape
    assert dw.shape == w.shape
    assert not dx.any()
    assert not dw.any()
    for pool in (kernels.max_pool, kernels.avg_pool):
        value, vjp_fn = jax.vjp(lambda x, pool=pool: pool(x, (4, 2)), x)
        assert value.shape == (2, 0, 3, 2)
        assert not vjp_fn(value)[0].any()
        assert vjp_fn(value)[0].shape == x.shape


class TestTransposedConvolution:
    def check(self, x_shape, w_shape, y_shape, **options):
        """All is zero: no tap covers an input."""
        x, w = jnp.ones(x_shape), jnp.ones(w_shape)
        for fn in (kernels.conv_transpose, autodiff.conv_transpose):
            value, vjp_fn = jax.vjp(lambda x, w, fn=fn: fn(x, w, **options), x, w)
            assert value.shape == y_shape
            gradients = vjp_fn(jnp.ones_like(value))
            chex.assert_trees_all_equal(
                (value, *gradients), jax.tree.map(jnp.zeros_like, (value, x, w))
            )
        assert textbook.conv_transpose(x, w, **options).shape == y_shape

    @pytest.mark.parametrize("low", [0, -1, 2])
    @pytest.mark.parametrize("groups", [1, 2])
    def test_a_window_larger_than_the_spread_input_never_fits(self, low, groups):
        self.check(
            (2, 3, 4, 2),
            (8, 2, 2 // groups, 4),
            (2, 0, 10, 4),
            strides=2,
            padding=((low, -low), (2, 2)),
            groups=groups,
        )

    def test_no_positions(self):
        self.check((2, 0, 3), (4, 3, 5), (2, 2, 5), strides=3, padding=((3, 2),))

    def test_what_is_cropped_or_padded_away_is_zero(self):
        self.check((1, 2, 1), (2, 1, 1), (1, 1, 1), strides=3, padding=((-1, -1),))

    def test_each_entry_lays_down_the_flipped_filter(self):
        w = jnp.asarray([1.0, 2.0, 3.0])[:, None, None]
        for padding, expected in (
            ("VALID", [3, 2, 1 + 30, 20, 10]),
            ("SAME", [3, 2, 31, 20]),
            (1, [2, 31, 20]),
        ):
            y = kernels.conv_transpose(row(1, 10), w, strides=2, padding=padding)
            assert y.ravel().tolist() == expected


class TestGeneralConvolution:
    def test_takes_every_argument_of_lax_at_its_place(self):
        ours, theirs = map(
            inspect.signature, (kernels.conv_general_dilated, lax.conv_general_dilated)
        )
        assert [(p.name, p.default, p.kind) for p in ours.parameters.values()] == [
            (p.name, p.default, p.kind) for p in theirs.parameters.values()
        ]

    @pytest.mark.parametrize(
        ("dtype", "wide"),
        [(jnp.bfloat16, jnp.float32), (jnp.float16, jnp.float32), (np.float32, None)],
    )
    def test_a_wider_result_is_not_rounded_on_the_way(self, dtype, wide, generator):
        x, w = (
            jnp.asarray(generator.standard_normal(shape), dtype)
            for shape in ((2, 3, 6, 6), (4, 3, 3, 3))
        )

        def value_and_gradients(fn):
            y, vjp_fn = jax.vjp(
                lambda x, w: fn(x, w, (1, 1), "SAME", preferred_element_type=wide), x, w
            )
            return y, vjp_fn(jnp.cos(y))

        actual = value_and_gradients(kernels.conv_general_dilated)
        expected = value_and_gradients(lax.conv_general_dilated)
        chex.assert_trees_all_equal_dtypes(actual, expected)
        chex.assert_trees_all_close(actual[0], expected[0], rtol=1e-5, atol=1e-5)
        widened = jax.tree.map(lambda leaf: leaf.astype(np.float32), (actual, expected))
        chex.assert_trees_all_close(*widened, rtol=1e-2, atol=1e-2)

    def test_geometry_may_come_as_lists_and_numpy_arrays(self):
        x, w = jnp.ones((1, 2, 5, 5)), jnp.ones((3, 2, 3, 3))
        geometry = (np.array([2, 1]), [[1, 1], [0, 2]], [1, 1], np.array([1, 2]))
        np.testing.assert_array_equal(
            kernels.conv_general_dilated(x, w, *geometry),
            lax.conv_general_dilated(
                x, w, (2, 1), ((1, 1), (0, 2)), rhs_dilation=(1, 2)
            ),
        )


def test_average_over_padding_alone_is_zero():
    x = row(3, 5)
    for count_include_pad, expected in (
        (True, [0, 1.5, 4, 2.5, 0]),
        (False, [0, 3, 4, 5, 0]),
    ):
        y = kernels.avg_pool(
            x, 2, strides=1, padding=2, count_include_pad=count_include_pad
        )
        assert y.ravel().tolist() == expected


INTEGERS = (
    np.int8,
    np.uint8,
    np.int16,
    np.uint16,
    np.int32,
    np.uint32,
    np.int64,
    np.uint64,
)


class TestSoftmaxCrossEntropy:
    def test_labels_outside_the_classes_give_nan(self):
        loss = kernels.softmax_cross_entropy(
            jnp.zeros((4, 3)), jnp.asarray([0, 2, 3, -1])
        )
        assert np.isnan(loss).tolist() == [False, False, True, True]

    # Class numbers that an int8 and a uint8 hold, and more classes than they count.
    @pytest.mark.parametrize("module", [kernels, autodiff], ids=["kernel", "twin"])
    @pytest.mark.parametrize("dtype", INTEGERS)
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_labels_of_any_width_mean_the_same(self, module, dtype, smoothing):
        logits = np.random.default_rng(0).normal(size=(4, 300)).astype(np.float32)
        labels = np.asarray([0, 5, 44, 127])

        def loss(labels):
            def each(logits):
                return module.softmax_cross_entropy(
                    logits, labels, label_smoothing=smoothing
                )

            y, vjp_fn = jax.vjp(each, jnp.asarray(logits))
            return y, *vjp_fn(jnp.ones(4))

        wide = textbook.softmax_cross_entropy(logits, labels, label_smoothing=smoothing)
        found, gradient = loss(labels.astype(dtype))
        np.testing.assert_allclose(found, wide, rtol=1e-5)
        np.testing.assert_array_equal(gradient, loss(labels.astype(np.int32))[1])
        jitted = jax.jit(lambda labels: loss(labels)[0])
        np.testing.assert_allclose(jitted(labels.astype(dtype)), wide, rtol=1e-5)

    @pytest.mark.parametrize("module", [kernels, autodiff, textbook])
    @pytest.mark.parametrize("dtype", INTEGERS)
    def test_what_is_no_class_is_nan_in_any_width(self, module, dtype):
        info = np.iinfo(dtype)
        numbers = [-1, -128, 3, 127, 255, 2**31, 2**32 + 1, 2**63]
        numbers = [number for number in numbers if info.min <= number <= info.max]
        loss = module.softmax_cross_entropy(
            jnp.zeros((len(numbers), 3)), np.asarray(numbers, dtype)
        )
        assert np.isnan(loss).all(), dict(zip(numbers, np.asarray(loss), strict=True))

    def test_four_bit_labels_are_labels(self):
        labels = jnp.asarray([5, 7], jnp.uint4)
        loss = kernels.softmax_cross_entropy(jnp.zeros((2, 20)), labels)
        np.testing.assert_allclose(loss, np.log([20, 20]), rtol=1e-6)

    def test_an_impossible_class_costs_nothing_unless_it_is_the_label(self):
        logits = jnp.asarray([[0.0, 0.0, -INF]])
        for labels in (jnp.asarray([0]), jnp.asarray([[1.0, 0.0, 0.0]])):
            loss, vjp_fn = jax.vjp(
                lambda z, labels=labels: kernels.softmax_cross_entropy(z, labels),
                logits,
            )
            np.testing.assert_allclose(loss, [np.log(2)], rtol=1e-6)
            np.testing.assert_allclose(
                vjp_fn(jnp.ones(1))[0], [[-0.5, 0.5, 0.0]], atol=1e-7
            )
            np.testing.assert_allclose(
                textbook.softmax_cross_entropy(logits, labels), loss, rtol=1e-6
            )
        assert kernels.softmax_cross_entropy(logits, jnp.asarray([2])).tolist() == [INF]

    def test_huge_logits_do_not_overflow(self):
        logits = jnp.asarray([[1e4, 0.0], [-1e4, 0.0]])
        loss, vjp_fn = jax.vjp(
            lambda z: kernels.softmax_cross_entropy(z, jnp.asarray([1, 1])), logits
        )
        assert loss.tolist() == [1e4, 0.0]
        assert vjp_fn(jnp.ones(2))[0].tolist() == [[1, -1], [0, 0]]

    def test_equals_the_twin_on_the_wide_dtype(self):
        logits = jnp.asarray([[1.0, 2.0, 4.0]], jnp.bfloat16)
        loss = kernels.softmax_cross_entropy(logits, jnp.asarray([1]))
        assert loss.dtype == jnp.float32
        twin = autodiff.softmax_cross_entropy(logits, jnp.asarray([1]))
        np.testing.assert_allclose(loss, twin, rtol=1e-6)


class TestMasks:
    def test_rate_zero_is_the_identity(self):
        x = jnp.arange(6.0).reshape(2, 3)
        for fn in (kernels.dropout, kernels.stochastic_depth):
            np.testing.assert_array_equal(fn(x, jax.random.key(0), 0.0), x)

    def test_keeps_the_mean_and_the_stated_share(self):
        y = kernels.dropout(jnp.ones((200, 100)), jax.random.key(0), 0.3)
        # Five standard deviations of 20,000 draws.
        assert abs(float((y == 0).mean()) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 20_000)
        np.testing.assert_allclose(np.unique(y), [0.0, 1 / 0.7], rtol=1e-6)

    def test_stochastic_depth_drops_whole_examples(self):
        y = np.asarray(
            kernels.stochastic_depth(jnp.ones((64, 3, 2)), jax.random.key(0), 0.5)
        )
        dropped = (y == 0).all(axis=(1, 2))
        assert (y[~dropped] == 2).all()
        assert 16 < dropped.sum() < 48

    def test_spatial_dropout_drops_whole_channels(self):
        y = kernels.spatial_dropout(jnp.ones((32, 3, 2, 8)), jax.random.key(0), 0.25)
        y = np.asarray(y).reshape(32, 6, 8)
        assert (y == y[:, :1]).all()
        np.testing.assert_allclose(np.unique(y), [0.0, 1 / 0.75], rtol=1e-6)
        # Five standard deviations of 256 draws.
        assert abs((y[:, 0] == 0).mean() - 0.25) < 5 * (0.25 * 0.75 / 256) ** 0.5

    def test_drop_block_drops_whole_squares(self):
        """Every dropped pixel is in a square of dropped pixels inside the map."""
        x = jnp.ones((8, 9, 7, 4))
        y = kernels.drop_block(x, jax.random.key(0), 0.2, block_size=3)
        dropped = np.moveaxis(np.asarray(y) == 0, -1, 1).reshape(-1, 9, 7)
        covered = np.zeros_like(dropped)
        for row, column in itertools.product(range(7), range(5)):
            square = (slice(None), slice(row, row + 3), slice(column, column + 3))
            covered[square] |= dropped[square].all((1, 2), keepdims=True)
        np.testing.assert_array_equal(covered, dropped)
        assert 0 < dropped.sum() < dropped.size
        # Channels differ.
        assert len({each.tobytes() for each in dropped[:4]}) > 1

    def test_drop_block_keeps_each_example_s_mean_and_the_stated_share(self):
        x = jnp.ones((100, 12, 12, 4))
        y = np.asarray(kernels.drop_block(x, jax.random.key(1), 0.1, block_size=3))
        np.testing.assert_allclose(y.mean((1, 2, 3)), 1.0, rtol=1e-5)
        # Squares overlap: 0.1 is the expected number of squares on a pixel, not the
        # chance of any. Pixels at the edge are in fewer squares.
        chance = 0.1 * 144 / (9 * 100)
        along = np.minimum(np.minimum(np.arange(12) + 1, 12 - np.arange(12)), 3)
        expected = 1 - (1 - chance) ** np.outer(along, along)
        np.testing.assert_allclose(
            (y == 0).mean((0, 3)), expected, atol=5 * np.sqrt(0.15 / 400)
        )

    def test_squares_of_one_pixel_are_dropout(self):
        y = kernels.drop_block(
            jnp.ones((64, 8, 8, 4)), jax.random.key(0), 0.3, block_size=1
        )
        assert abs(float((y == 0).mean()) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 16_384)

    def test_an_example_of_which_nothing_remains_is_zero(self):
        x = jnp.ones((64, 2, 2, 1))
        y = kernels.drop_block(x, jax.random.key(0), 0.5, block_size=2)
        sums = np.asarray(y).sum((1, 2, 3))
        assert set(sums.tolist()) == {0.0, 4.0}

    @pytest.mark.parametrize("fn", [kernels.dropout, kernels.stochastic_depth])
    def test_the_backward_pass_draws_the_same_mask(self, fn):
        x = jnp.ones((32, 4))
        y, vjp_fn = jax.vjp(lambda x: fn(x, jax.random.key(3), 0.5), x)
        np.testing.assert_array_equal(vjp_fn(x)[0], y)
        assert 0 < (y == 0).sum() < y.size
        assert not np.array_equal(fn(x, jax.random.key(4), 0.5), y)

    def test_legacy_keys_are_keys_too(self):
        x = jnp.ones((32, 4))
        np.testing.assert_array_equal(
            kernels.dropout(x, jax.random.PRNGKey(3), 0.5),
            kernels.dropout(x, jax.random.key(3), 0.5),
        )


def test_batch_norm_mixes_bfloat16_images_with_float32_parameters(generator):
    x = jnp.asarray(generator.standard_normal((8, 4, 3)), jnp.bfloat16)
    scale, bias = jnp.ones(3), jnp.zeros(3)
    outputs, vjp_fn = jax.vjp(
        lambda *a: kernels.batch_norm(*a, epsilon=1e-5), x, scale, bias
    )
    dtypes = [output.dtype for output in outputs]
    assert dtypes == [jnp.bfloat16, jnp.float32, jnp.float32]
    gradients = vjp_fn(outputs)
    assert [g.dtype for g in gradients] == [jnp.bfloat16, jnp.float32, jnp.float32]


def test_a_constant_channel_has_no_variance():
    x = jnp.full((4, 3, 1), 1000.1)
    y, mean, var = kernels.batch_norm(x, jnp.ones(1), jnp.zeros(1), epsilon=1e-5)
    np.testing.assert_allclose(mean, [1000.1], rtol=1e-6)
    assert var[0] < 1e-6
    assert np.abs(y).max() < 1.0


class TestBatchNormActivation:
    VECTORS = (jnp.zeros(1), jnp.ones(1), jnp.ones(1), jnp.zeros(1))

    def infer(self, module, x):
        return module.batch_norm_inference(
            x, *self.VECTORS, epsilon=0.0, activation=kernels.relu
        )

    def test_relu_passes_nothing_at_zero_and_not_even_infinity_below(self):
        x = jnp.asarray([-1.0, -0.0, 0.0, 2.0, NAN, INF])[:, None]
        dy = jnp.asarray([INF, 1.0, 1.0, 3.0, 1.0, 1.0])[:, None]
        results = []
        for module in (kernels, autodiff):
            y, vjp_fn = jax.vjp(lambda x, m=module: self.infer(m, x), x)
            results.append((y.ravel(), vjp_fn(dy)[0].ravel()))
        np.testing.assert_array_equal(results[0][0], [0, 0, 0, 2, NAN, INF])
        np.testing.assert_array_equal(results[0][1], [0, 0, 0, 3, 0, 1])
        chex.assert_trees_all_equal(*results)

    def test_relu_of_a_channel_that_is_switched_off(self, generator):
        """A scale and a bias of zero, as at the start of a residual branch."""
        x = jnp.asarray(generator.standard_normal((4, 3, 2)), jnp.float32)
        y, vjp_fn = jax.vjp(
            lambda *a: kernels.batch_norm(*a, epsilon=1e-3, activation=kernels.relu)[0],
            *(x, jnp.zeros(2), jnp.zeros(2)),
        )
        chex.assert_trees_all_equal(
            (y, *vjp_fn(jnp.ones_like(y))),
            (jnp.zeros_like(x), jnp.zeros_like(x), jnp.zeros(2), jnp.zeros(2)),
        )

    def test_the_second_derivative_at_zero_is_zero_either_way(self):
        def product(point):
            return self.infer(kernels, point[:1, None])[0, 0] * point[1]

        hessian = jax.hessian(product)(jnp.asarray([0.0, 5.0]))
        np.testing.assert_array_equal(hessian, np.zeros((2, 2)))

    @pytest.mark.parametrize("activation", ["relu", "silu", "sigmoid"])
    def test_equals_the_two_kernels_one_after_the_other(self, activation, generator):
        activation = getattr(kernels, activation)
        x, dy = jnp.asarray(generator.standard_normal((2, 6, 4, 3)), jnp.float32)
        scale, bias = jnp.asarray(generator.uniform(0.5, 1.5, (2, 3)), jnp.float32)

        def fused(x, scale, bias):
            return kernels.batch_norm(
                x, scale, bias, epsilon=1e-3, activation=activation
            )

        def separate(x, scale, bias):
            y, *statistics = kernels.batch_norm(x, scale, bias, epsilon=1e-3)
            return activation(y), *statistics

        results = []
        for fn in (fused, separate):
            outputs, vjp_fn = jax.vjp(fn, x, scale, bias)
            results.append((outputs, vjp_fn((dy, *outputs[1:]))))
        chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-6)


def test_squeeze_excite_may_close_and_open_a_channel():
    x = jnp.asarray([[[1.0, 2.0], [3.0, 4.0]]])
    y, vjp_fn = jax.vjp(
        lambda x: kernels.squeeze_excite(
            x,
            *(jnp.zeros((2, 1)), jnp.zeros(1)),
            *(jnp.zeros((1, 2)), jnp.asarray([-1e4, 1e4])),
        ),
        x,
    )
    np.testing.assert_array_equal(y, [[[0, 2], [0, 4]]])
    np.testing.assert_array_equal(vjp_fn(x)[0], y)


OWN_STATISTICS = {
    "layer_norm": functools.partial(kernels.layer_norm, epsilon=1e-6),
    "group_norm": functools.partial(kernels.group_norm, num_groups=2, epsilon=1e-6),
}


@pytest.mark.parametrize("name", OWN_STATISTICS)
class TestOwnStatistics:
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
    def test_a_constant_set_becomes_the_bias(self, name, dtype, generator):
        # Powers of two, so that the mean is exact.
        x = jnp.full((2, 3, 4), 512.0, dtype)
        scale, bias = jnp.full(4, 2.0), jnp.arange(4.0)
        y, vjp_fn = jax.vjp(OWN_STATISTICS[name], x, scale, bias)
        np.testing.assert_array_equal(y, jnp.broadcast_to(bias, x.shape).astype(dtype))
        dy = jnp.asarray(generator.standard_normal(x.shape), dtype)
        dx, dscale, dbias = vjp_fn(dy)
        # xhat is 0, and its derivative the large but finite 1 / sqrt(epsilon).
        assert np.isfinite(dx).all()
        assert np.abs(dx).max() > 100
        np.testing.assert_array_equal(dscale, jnp.zeros(4))
        np.testing.assert_allclose(dbias, dy.astype(jnp.float32).sum((0, 1)), rtol=1e-6)

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
    def test_large_numbers_are_normalised_in_float32(self, name, dtype, generator):
        # Their squares are beyond float16, and the mean is large beside the deviation.
        x = jnp.asarray(1e4 + 64 * generator.integers(-9, 9, (2, 5, 8)), dtype)
        vectors = jnp.ones(8), jnp.zeros(8)
        y, vjp_fn = jax.vjp(OWN_STATISTICS[name], x, *vectors)
        options = OWN_STATISTICS[name].keywords
        reference = np.asarray(x, np.float64)
        expected = getattr(textbook, name)(reference, *vectors, **options)
        tolerance = max(1e-4, 2 * float(jnp.finfo(dtype).eps))
        np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)
        assert all(np.isfinite(gradient).all() for gradient in vjp_fn(y))

    def test_parameters_are_optional_one_by_one(self, name, generator):
        fn, twin = OWN_STATISTICS[name], getattr(autodiff, name)
        twin = functools.partial(twin, **fn.keywords)
        x, dy = generator.standard_normal((2, 2, 3, 4)).astype(np.float32)
        ones, zeros = jnp.ones(4), jnp.zeros(4)
        scale = jnp.asarray(generator.standard_normal(4), jnp.float32)
        for given in ((None, None), (scale, None), (None, scale), (scale, scale)):
            y, vjp_fn = jax.vjp(fn, x, *given)
            full = tuple(
                default if value is None else value
                for value, default in zip(given, (ones, zeros), strict=True)
            )
            expected, twin_vjp_fn = jax.vjp(twin, x, *full)
            np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
            gradients, wanted = vjp_fn(dy), twin_vjp_fn(dy)
            for value, gradient, reference in zip(
                (x, *given), gradients, wanted, strict=True
            ):
                if value is None:
                    assert gradient is None
                else:
                    np.testing.assert_allclose(
                        gradient, reference, rtol=1e-5, atol=1e-5
                    )

    def test_mixes_bfloat16_images_with_float32_parameters(self, name, generator):
        x = jnp.asarray(generator.standard_normal((8, 4, 4)), jnp.bfloat16)
        y, vjp_fn = jax.vjp(OWN_STATISTICS[name], x, jnp.ones(4), jnp.zeros(4))
        assert y.dtype == jnp.bfloat16
        assert [g.dtype for g in vjp_fn(y)] == [jnp.bfloat16, jnp.float32, jnp.float32]


def test_group_norm_spans_layer_norm_and_instance_norm(generator):
    x = jnp.asarray(generator.standard_normal((3, 6)), jnp.float32)
    scale, bias = jnp.arange(6.0), jnp.ones(6)
    np.testing.assert_allclose(
        kernels.group_norm(x, scale, bias, num_groups=1, epsilon=1e-6),
        kernels.layer_norm(x, scale, bias, epsilon=1e-6),
        rtol=1e-6,
    )
    images = x.reshape(1, 6, 3)
    instances = kernels.group_norm(images, None, None, num_groups=3, epsilon=0.0)
    np.testing.assert_allclose(instances.mean(1), np.zeros((1, 3)), atol=1e-6)
    np.testing.assert_allclose(instances.var(1), np.ones((1, 3)), rtol=1e-5)


# What the backward pass keeps. Fewer bytes than these is better, more is a regression.
RESIDUALS = {
    "max_pool": (lambda x: kernels.max_pool(x, 2), {"uint8[2,2,2,3]"}),
    "avg_pool": (lambda x: kernels.avg_pool(x, 2), set()),
    "global_avg_pool": (kernels.global_avg_pool, set()),
    "relu": (kernels.relu, {"bool[2,4,4,3]"}),
    "relu6": (kernels.relu6, {"bool[2,4,4,3]"}),
    "hard_sigmoid": (kernels.hard_sigmoid, {"bool[2,4,4,3]"}),
    "sigmoid": (kernels.sigmoid, {"float32[2,4,4,3]"}),
    "hard_swish": (kernels.hard_swish, {"float32[2,4,4,3]"}),
    "gelu": (kernels.gelu, {"float32[2,4,4,3]"}),
    "silu": (kernels.silu, {"float32[2,4,4,3]"}),
    "dropout": (lambda x: kernels.dropout(x, jax.random.key(0), 0.5), {"key<fry>[]"}),
    "drop_block": (
        lambda x: kernels.drop_block(x, jax.random.key(0), 0.5, block_size=2),
        {"key<fry>[]"},
    ),
    "batch_norm": (
        lambda x: kernels.batch_norm(x, jnp.ones(3), jnp.zeros(3), epsilon=1e-3),
        {"float32[2,4,4,3]", "float32[3]", "float32[0]"},
    ),
    "batch_norm, silu": (
        lambda x: kernels.batch_norm(
            x, jnp.ones(3), jnp.zeros(3), epsilon=1e-3, activation=kernels.silu
        ),
        {"float32[2,4,4,3]", "float32[3]"},
    ),
    "batch_norm_inference, relu": (
        lambda x: kernels.batch_norm_inference(
            x, *[jnp.ones(3)] * 4, epsilon=1e-3, activation=kernels.relu
        ),
        {"float32[2,4,4,3]", "float32[3]"},
    ),
    "squeeze_excite": (
        lambda x: kernels.squeeze_excite(
            x, jnp.ones((3, 5)), jnp.ones(5), jnp.ones((5, 3)), jnp.ones(3)
        ),
        {
            *("float32[2,4,4,3]", "float32[2,3]"),
            *("float32[3,5]", "float32[5]", "float32[5,3]"),
        },
    ),
    "adaptive_avg_pool": (lambda x: kernels.adaptive_avg_pool(x, 3), set()),
    "local_response_norm": (kernels.local_response_norm, {"float32[2,4,4,3]"}),
    "layer_norm": (
        lambda x: kernels.layer_norm(x, jnp.ones(3), jnp.zeros(3), epsilon=1e-3),
        {"float32[2,4,4,3]", "float32[2,4,4,1]", "float32[3]", "float32[0]"},
    ),
    "group_norm": (
        lambda x: kernels.group_norm(x, None, None, num_groups=3, epsilon=1e-3),
        {"float32[2,4,4,3]", "float32[2,1,1,3]"},
    ),
}


@pytest.mark.parametrize("kernel", RESIDUALS)
def test_residuals(kernel):
    fn, expected = RESIDUALS[kernel]
    _, vjp_fn = jax.vjp(fn, jnp.ones((2, 4, 4, 3), jnp.float32))
    leaves = [str(jax.typeof(leaf)) for leaf in jax.tree.leaves(vjp_fn)]
    assert set(leaves) == expected
    assert sum("2,4,4,3" in leaf for leaf in leaves) <= 1


@pytest.mark.parametrize("activation", ["relu", "silu", "sigmoid"])
@pytest.mark.parametrize("kernel", ["batch_norm", "batch_norm_inference"])
def test_batch_norm_with_activation_keeps_half_of_the_twins_bytes(kernel, activation):
    x = jnp.ones((8, 16, 16, 32), jnp.bfloat16)
    vectors = [jnp.ones(32) for _ in range(2 if kernel == "batch_norm" else 4)]
    own, twins = (
        residual_bytes(
            lambda *a, module=module: getattr(module, kernel)(
                *a, epsilon=1e-3, activation=getattr(kernels, activation)
            ),
            *(x, *vectors),
        )
        for module in (kernels, autodiff)
    )
    assert own <= twins / 2
    assert own < 1.01 * x.nbytes


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("shape", [(8, 16, 16, 32), (8, 1, 1, 32)])
@pytest.mark.parametrize(
    "options", [{}, {"activation": kernels.silu}, {"gate": kernels.silu}]
)
def test_squeeze_excite_keeps_no_more_than_its_twin(options, shape, dtype):
    arguments = [
        jnp.ones(size, dtype) for size in (shape, (32, 8), (8,), (8, 32), (32,))
    ]
    own, twins = (
        residual_bytes(
            lambda *a, module=module: module.squeeze_excite(*a, **options), *arguments
        )
        for module in (kernels, autodiff)
    )
    assert own <= twins


# Bytes kept, relative to the twin's, in bfloat16.
SHARES = {
    "relu": 1.0,
    "relu6": 1.0,
    "sigmoid": 1.0,
    "hard_sigmoid": 1.0,
    "hard_swish": 0.5,
    "silu": 0.5,
    "gelu": 0.5,
    "layer_norm": 0.5,
    "group_norm": 0.5,
}


@pytest.mark.parametrize("name", SHARES)
def test_residuals_take_no_more_bytes_than_the_twins(name):
    x = jnp.ones((2, 4, 4, 6), jnp.bfloat16)
    options = OWN_STATISTICS[name].keywords if name in OWN_STATISTICS else {}
    vectors = (jnp.ones(6), jnp.zeros(6)) if name in OWN_STATISTICS else ()

    def num_bytes(module):
        fn = functools.partial(getattr(module, name), **options)
        return residual_bytes(fn, x, *vectors)

    assert num_bytes(kernels) <= SHARES[name] * num_bytes(autodiff)
