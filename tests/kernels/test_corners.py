"""One rule for each corner, written down and equal to JAX's autodiff of lax."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import kernels
from cnn_jax.analysis.cases import CASES
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
        # NumPy's bfloat16 does not know that NaN stands for NaN.
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
        # Ties, NaN and -inf too, by the written rule: XLA's cannot be asked.
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
    # Linear: the gradient does not know x. A bad cotangent stays inside its window.
    assert vjp_fn(jnp.ones_like(y))[0].ravel().tolist() == [0.5] * 6
    dx = vjp_fn(row(1, bad, 1))[0].ravel()
    np.testing.assert_array_equal(dx, [0.5, 0.5, bad, bad, 0.5, 0.5])
    np.testing.assert_array_equal(kernels.global_avg_pool(x).ravel(), [bad])


class TestActivations:
    def test_relu_at_zero_and_nan(self):
        x = jnp.asarray([-1.0, -0.0, 0.0, NAN, 2.0, INF])
        y, vjp_fn = jax.vjp(kernels.relu, x)
        np.testing.assert_array_equal(y, jax.nn.relu(x))
        assert vjp_fn(jnp.ones(6))[0].tolist() == [0, 0, 0, 0, 1, 1]
        assert jax.vjp(jax.nn.relu, x)[1](jnp.ones(6))[0].tolist() == [0, 0, 0, 0, 1, 1]

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
    def test_far_tails_are_exact(self, dtype):
        x = jnp.asarray([-1e4, -200.0, 200.0, 1e4], dtype)
        for fn, value, slope in (
            (kernels.sigmoid, [0, 0, 1, 1], [0, 0, 0, 0]),
            (kernels.silu, [0, 0, x[2], x[3]], [0, 0, 1, 1]),
        ):
            y, vjp_fn = jax.vjp(fn, x)
            np.testing.assert_array_equal(y, jnp.asarray(value, dtype))
            np.testing.assert_array_equal(
                vjp_fn(jnp.ones_like(x))[0], jnp.asarray(slope, dtype)
            )


def zeros(*shape):
    return jnp.zeros(shape, jnp.float32)


EMPTY_BATCH = {
    "conv": (kernels.conv, (zeros(0, 5, 5, 2), zeros(3, 3, 2, 4), zeros(4))),
    "depthwise": (
        lambda x, w: kernels.conv(x, w, groups=2, strides=2),
        (zeros(0, 5, 5, 2), zeros(3, 3, 1, 4)),
    ),
    "pointwise": (kernels.conv, (zeros(0, 5, 5, 2), zeros(1, 1, 2, 4))),
    "dense": (kernels.dense, (zeros(0, 3), zeros(3, 2), zeros(2))),
    "max_pool": (lambda x: kernels.max_pool(x, 2), (zeros(0, 4, 4, 2),)),
    "avg_pool": (lambda x: kernels.avg_pool(x, 2), (zeros(0, 4, 4, 2),)),
    "global_avg_pool": (kernels.global_avg_pool, (zeros(0, 4, 4, 2),)),
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
    "relu": (kernels.relu, (zeros(0, 3),)),
    "softmax_cross_entropy": (
        lambda z: kernels.softmax_cross_entropy(z, jnp.zeros(0, jnp.int32)),
        (zeros(0, 3),),
    ),
    "batch_norm_inference": (
        lambda *a: kernels.batch_norm_inference(*a, epsilon=1e-3),
        (zeros(0, 3, 2), zeros(2), zeros(2) + 1, zeros(2), zeros(2)),
    ),
    "dropout": (lambda x: kernels.dropout(x, jax.random.key(0), 0.5), (zeros(0, 3),)),
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


class TestSoftmaxCrossEntropy:
    def test_labels_outside_the_classes_give_nan(self):
        loss = kernels.softmax_cross_entropy(
            jnp.zeros((4, 3)), jnp.asarray([0, 2, 3, -1])
        )
        assert np.isnan(loss).tolist() == [False, False, True, True]

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


# What the backward pass keeps. Fewer bytes than these is better, more is a regression.
RESIDUALS = {
    "max_pool": (lambda x: kernels.max_pool(x, 2), {"uint8[2,2,2,3]"}),
    "avg_pool": (lambda x: kernels.avg_pool(x, 2), set()),
    "global_avg_pool": (kernels.global_avg_pool, set()),
    "relu": (kernels.relu, {"float32[2,4,4,3]"}),
    "silu": (kernels.silu, {"float32[2,4,4,3]"}),
    "dropout": (lambda x: kernels.dropout(x, jax.random.key(0), 0.5), {"key<fry>[]"}),
    "batch_norm": (
        lambda x: kernels.batch_norm(x, jnp.ones(3), jnp.zeros(3), epsilon=1e-3),
        {"float32[2,4,4,3]", "float32[3]", "float32[0]"},
    ),
}


@pytest.mark.parametrize("kernel", RESIDUALS)
def test_residuals(kernel):
    fn, expected = RESIDUALS[kernel]
    _, vjp_fn = jax.vjp(fn, jnp.ones((2, 4, 4, 3), jnp.float32))
    leaves = [str(jax.typeof(leaf)) for leaf in jax.tree.leaves(vjp_fn)]
    assert set(leaves) == expected
    assert sum("2,4,4,3" in leaf for leaf in leaves) <= 1
