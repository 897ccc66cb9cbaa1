"""Drawn geometries: all four proofs at many points, in float64.

For every draw, one program evaluates the kernel, its gradients and their own VJP, and
the twin with its gradients. Then

1. value and gradients are those of the NumPy textbook, to 1e-12;
2. and those of the twin under `jax.vjp`, to 1e-12;
3. <A x, c> = <x, A* c> wherever the kernel is linear, to 1e-13;
4. the second derivative is that of finite differences. With G(v) the gradients at the
   arguments and cotangent v, and a random u, the program gives J^T u for G's Jacobian
   J. For a random direction t, <J^T u, t> must be the central difference of <u, G>
   along t, which takes the same program at v + h t and v - h t: what `check_grads` of
   order 2 in reverse mode compares, without another compilation.

All of this is float64, in which a compiler may be right where it is wrong in another
dtype. So what has a window is drawn again in float32, bfloat16 and float16: value and
gradients, many draws to a program, against the textbook in float64.

The draws are derandomized: the same ones in every run. Compiling their programs takes
nearly all of the time, so by default there is a share of them; the nightly run makes
them all. By hand:

    pytest -m nightly -k 500 tests/kernels/test_geometry_draws.py
    pytest -m nightly tests/kernels/test_geometry_draws.py
"""

import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jax import lax

from cnn_jax import kernels
from cnn_jax.analysis.cases import (
    CASES,
    Case,
    is_floating,
    normal,
    positive,
    random_key,
    spaced,
)
from cnn_jax.analysis.gradcheck import FAST_COMPILATION, draw_like, pull_back
from cnn_jax.geometry import Window, spread_size
from cnn_jax.kernels import autodiff

TOLERANCE = 1e-12
ADJOINT_TOLERANCE = 1e-13

# Second derivatives of convolutions, the twins' as well as ours, crash this pass of XLA
# in some drawn geometries (jax 0.10 and 0.12: "Window dimensions do not match RHS").
CONVOLUTIONS = FAST_COMPILATION | {"xla_disable_hlo_passes": "algsimp"}
if "xla_cpu_use_fusion_emitters" in os.environ["XLA_FLAGS"]:
    # The emitter that tests compile with leaves negative padding to that pass.
    CONVOLUTIONS |= {"xla_cpu_use_fusion_emitters": True}

# The central difference of a cubic is off by its third derivative times STEP^2 / 6, and
# by roundings of 1e-16 / STEP. No step crosses from one `spaced` number to the next.
STEP = 1e-4
SECOND_ORDER_TOLERANCE = 1e-6


def integers(low, high, count):
    return st.tuples(*[st.integers(low, high)] * count)


@st.composite
def windows(draw, rank, has_dilation=True):
    """Draws the input's sizes and the options of a window over them."""
    sizes = draw(integers(1, 9 - 2 * rank, rank))
    options = {
        "window": draw(integers(1, 4, rank)),
        "strides": draw(integers(1, 3, rank)),
    }
    if has_dilation:
        options["dilation"] = draw(st.just((1,) * rank) | integers(1, 2, rank))
    # A negative amount crops; two sides never crop more than the input.
    pairs = []
    for n in sizes:
        side, crop = st.integers(-((n - 1) // 2), 3), st.integers(-n, -1)
        beyond = st.integers(1, 4)
        shifts = st.tuples(crop, beyond), st.tuples(beyond, crop)
        pairs.append(st.one_of(st.tuples(side, side), *shifts, shifts[0]))
    options["padding"] = draw(
        st.one_of(
            st.sampled_from(["SAME", "VALID", 0, 1, 2]),
            st.tuples(*pairs),
            st.tuples(*pairs),
        )
    )
    return sizes, options


def channel_counts():
    """Draws a number of channels: compilers take other ways from a vector's width."""
    return st.sampled_from([1, 2, 3, 8, 8, 16])


@st.composite
def convolution_geometries(draw, rank):
    """Draws the shapes of an input and a filter, and the options of a convolution."""
    sizes, options = draw(windows(rank))
    filter_sizes = options.pop("window")
    batch, groups = draw(st.integers(1, 2)), draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = draw(channel_counts()), draw(channel_counts())
    x = (batch, *sizes, groups * inputs)
    w = (*filter_sizes, inputs, groups * outputs)
    return x, w, {**options, "groups": groups}


@st.composite
def convolutions(draw, kernel, rank):
    x, w, options = draw(convolution_geometries(rank))
    geometry = {name: options[name] for name in options if name != "groups"}
    y_sizes = Window.resolve(x[1:-1], w[:-2], **geometry).output_sizes
    dy = (x[0], *y_sizes, w[-1])
    arguments = {"x": normal(*x), "w": normal(*w), "dy": normal(*dy)}
    if kernel == "conv":
        names = ["x", "w"]
        if draw(st.booleans()):
            names.append("b")
            arguments["b"] = normal(w[-1])
    elif kernel == "conv_input_grad":
        names = ["dy", "w"]
        options["input_shape"] = x
    elif kernel == "conv_filter_grad":
        names = ["x", "dy"]
        options["filter_shape"] = w
    else:
        names, options = ["dy"], {}
    return Case(kernel, "drawn", {name: arguments[name] for name in names}, options)


@st.composite
def transposed_convolutions(draw, kernel, rank):
    x, w, options = draw(convolution_geometries(rank))
    if not isinstance(options["padding"], str):
        # From cropping all of the spread input to padding beyond the window's reach.
        pairs = []
        for size, stride in zip(x[1:-1], options["strides"], strict=True):
            spread = spread_size(size, stride)
            low = draw(st.integers(-spread, 8 - rank))
            high = draw(st.integers(-spread - min(low, 0), 8 - rank))
            pairs.append((low, high))
        options["padding"] = tuple(pairs)
    arguments = {"x": normal(*x), "w": normal(*w), "b": normal(w[-1])}
    return Case(kernel, "drawn", arguments, options)


@st.composite
def general_convolutions(draw, kernel, rank):
    """Draws operands whose axes stand in any order, and the lax arguments."""
    x, w, options = draw(convolution_geometries(rank))
    spread = draw(st.sampled_from([None, draw(integers(1, 3, rank))]))
    strides = draw(st.sampled_from([options["strides"], (1,) * rank]))
    padding = options["padding"]
    if isinstance(padding, int):
        padding = ((padding, padding),) * rank
    elif isinstance(padding, str):
        padding = draw(st.sampled_from(["SAME", "SAME_LOWER", "VALID"]))
        if spread is not None:
            padding = ((2, 1),) * rank
    spatial = "DHW"[-rank:]
    layouts = [f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"]
    orders = [draw(st.permutations(range(rank + 2))) for _ in layouts]
    named = tuple(
        "".join(layout[axis] for axis in order)
        for layout, order in zip(layouts, orders, strict=True)
    )
    # Strides and paddings follow the order of the filter's spatial axes.
    kept = [spatial.index(letter) for letter in named[1] if letter in spatial]

    def reordered(values):
        follows = values is not None and not isinstance(values, str)
        return tuple(values[axis] for axis in kept) if follows else values

    lhs, rhs = (
        tuple(shape[axis] for axis in order)
        for shape, order in zip((x, w), orders, strict=False)
    )
    options = {
        "window_strides": reordered(strides),
        "padding": reordered(padding),
        "lhs_dilation": reordered(spread),
        "rhs_dilation": draw(st.sampled_from([None, reordered(options["dilation"])])),
        "dimension_numbers": named,
        "feature_group_count": options["groups"],
    }
    arguments = {"lhs": normal(*lhs), "rhs": normal(*rhs)}
    return Case(kernel, "drawn", arguments, options)


@st.composite
def poolings(draw, kernel, rank):
    is_max = kernel.startswith("max")
    sizes, options = draw(windows(rank, has_dilation=is_max))
    geometry = dict(options)
    window = geometry.pop("window")
    y_sizes = Window.resolve(sizes, window, **geometry).output_sizes
    batch, channels = draw(st.integers(1, 2)), draw(channel_counts())
    x, dy = (batch, *sizes, channels), (batch, *y_sizes, channels)
    if not is_max:
        options["count_include_pad"] = draw(st.booleans())
    if kernel == "avg_pool_grad":
        options["input_shape"] = x
        return Case(kernel, "drawn", {"dy": normal(*dy)}, options)
    arguments = {"x": spaced(*x) if is_max else normal(*x)}
    if kernel == "max_pool_grad":
        arguments["dy"] = normal(*dy)
    return Case(kernel, "drawn", arguments, options)


@st.composite
def global_poolings(draw, kernel, rank):
    shape = (draw(st.integers(1, 3)), *draw(integers(1, 5, rank + 1)))
    return Case(kernel, "drawn", {"x": normal(*shape)})


@st.composite
def dense_products(draw, kernel, rank):
    *rows, inputs, outputs = draw(integers(1, 5, rank + 2))
    arguments = {"x": normal(*rows, inputs), "w": normal(inputs, outputs)}
    if draw(st.booleans()):
        arguments["b"] = normal(outputs)
    return Case(kernel, "drawn", arguments)


@st.composite
def normalizations(draw, kernel, rank):
    # Two channels in a group and three examples at least: of fewer numbers there may be
    # no variance, and a gradient that is nothing but roundings.
    groups, channels = draw(integers(1, 3, 1))[0], draw(st.integers(2, 3))
    shape = (draw(st.integers(3, 4)), *draw(integers(1, 3, rank)), groups * channels)
    options = {"epsilon": draw(st.sampled_from([1e-3, 1e-1]))}
    if kernel == "group_norm":
        options["num_groups"] = groups
    names = ("scale", "bias")
    if kernel == "batch_norm_inference":
        names = ("mean", "var", "scale", "bias")
    vectors = {
        name: (positive if name in ("var", "scale") else normal)(shape[-1])
        for name in names
    }
    return Case(kernel, "drawn", {"x": normal(*shape), **vectors}, options)


@st.composite
def squeeze_excitations(draw, kernel, rank):
    shape = draw(integers(1, 3, rank + 2))
    channels, squeezed = shape[-1], draw(st.integers(1, 4))
    arguments = {
        "x": normal(*shape),
        "squeeze_w": normal(channels, squeezed),
        "squeeze_b": normal(squeezed),
        "expand_w": normal(squeezed, channels),
        "expand_b": normal(channels),
    }
    # Not its default relu, whose corner a draw may come near.
    return Case(kernel, "drawn", arguments, {"activation": kernels.silu})


@st.composite
def adaptive_poolings(draw, kernel, rank):
    x = normal(*draw(integers(1, 6, rank + 2)))
    return Case(kernel, "drawn", {"x": x}, {"output_size": draw(integers(1, 5, rank))})


@st.composite
def response_normalizations(draw, kernel, rank):
    options = {"size": draw(st.integers(1, 6)), "alpha": draw(st.floats(0.1, 1.0))}
    x = normal(*draw(integers(1, 5, rank + 1)))
    return Case(kernel, "drawn", {"x": x}, options)


@st.composite
def maskings(draw, kernel, rank):
    shape = draw(integers(1, 4, rank + 2))
    arguments = {"x": normal(*shape), "key": random_key()}
    options = {"rate": draw(st.floats(0.1, 0.6))}
    if kernel == "drop_block":
        options["block_size"] = draw(st.integers(1, 5))
    return Case(kernel, "drawn", arguments, options)


@st.composite
def elementwise(draw, kernel, rank):
    return Case(kernel, "drawn", {"x": spaced(*draw(integers(1, 4, rank + 1)))})


# Kernel -> (strategy, draws for each of the ranks 1 to 3, the share of them that is
# drawn by default). More of those whose geometry is intricate and whose programs are
# quick to compile; by default few, and none of what has no window: the table of
# `test_proofs` has its ranks.
DRAWS = {
    "conv": (convolutions, 15, 2),
    "conv_input_grad": (convolutions, 11, 2),
    "conv_filter_grad": (convolutions, 11, 2),
    "conv_bias_grad": (convolutions, 4, 0),
    "conv_transpose": (transposed_convolutions, 8, 1),
    "conv_general_dilated": (general_convolutions, 8, 1),
    "max_pool": (poolings, 26, 2),
    "max_pool_grad": (poolings, 16, 2),
    "avg_pool": (poolings, 28, 2),
    "avg_pool_grad": (poolings, 30, 2),
    "global_avg_pool": (global_poolings, 4, 0),
    "dense": (dense_products, 4, 0),
    "batch_norm": (normalizations, 3, 0),
    "batch_norm_inference": (normalizations, 3, 0),
    "layer_norm": (normalizations, 3, 0),
    "group_norm": (normalizations, 3, 0),
    "squeeze_excite": (squeeze_excitations, 3, 0),
    "adaptive_avg_pool": (adaptive_poolings, 4, 0),
    "local_response_norm": (response_normalizations, 2, 0),
    "dropout": (maskings, 1, 0),
    "stochastic_depth": (maskings, 2, 0),
    "spatial_dropout": (maskings, 2, 0),
    "drop_block": (maskings, 6, 1),
}


def is_elementwise(case):
    if list(case.arguments) != ["x"] or case.options:
        return False
    x = case.draw(0, np.float32)["x"]
    return getattr(kernels, case.kernel)(x).shape == x.shape


def all_draws():
    """Adds the elementwise kernels of the table, and drops what it does not have."""
    draws = {}
    for case in CASES:
        if case.kernel in DRAWS:
            draws.setdefault(case.kernel, DRAWS[case.kernel])
        elif case.kernel not in draws and is_elementwise(case):
            draws[case.kernel] = (elementwise, 3, 0)
    return draws


ALL_DRAWS = all_draws()


def how_many(kernel, draws):
    _, count, share = ALL_DRAWS[kernel]
    return {"a share": share, "500": count, "2000": 4 * count}[draws]


@pytest.mark.parametrize("draws", ["500", "2000"])
def test_there_are_as_many_as_they_are_called(draws):
    assert 3 * sum(how_many(kernel, draws) for kernel in ALL_DRAWS) >= int(draws)


def draws_of(kernel):
    marked = [
        pytest.param(kernel, n, marks=pytest.mark.nightly) for n in ("500", "2000")
    ]
    share = [pytest.param(kernel, "a share")] if how_many(kernel, "a share") else []
    return share + marked


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("kernel", "draws"), [row for kernel in ALL_DRAWS for row in draws_of(kernel)]
)
def test_all_four_proofs(kernel, draws, rank, proofs, x64):
    strategy, count = ALL_DRAWS[kernel][0], how_many(kernel, draws)
    proven = []

    @settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy(kernel, rank))
    def check(case):
        assert_four_proofs(case, proofs)
        proven.append(case)

    check()
    assert len(proven) >= count


# Kernels with a window, and how many draws are made of each in one dtype. What JAX
# makes of the gradients, as of any other function, is drawn with the named gradients.
WINDOWED = {
    "conv": 108,
    "conv_input_grad": 72,
    "conv_filter_grad": 72,
    "conv_transpose": 60,
    "conv_general_dilated": 60,
    "max_pool": 36,
    "max_pool_grad": 24,
    "avg_pool": 36,
    "avg_pool_grad": 36,
}
DRAWS_PER_PROGRAM = 12

# A rounding, relative to the number.
ROUNDINGS = {jnp.float32: 2**-24, jnp.bfloat16: 2**-9, jnp.float16: 2**-11}


def tolerance(dtype, terms):
    """Returns how far a sum may be off, relative to what its terms' sizes add up to.

    A few roundings of operands and result, and a random walk of those of its terms.
    """
    return ROUNDINGS[dtype] * (4 + math.sqrt(terms))


def draws_in_dtypes():
    for kernel, count in WINDOWED.items():
        for dtype in ROUNDINGS:
            name = f"{kernel}-{dtype.__name__}"
            if dtype == jnp.bfloat16:
                yield pytest.param(kernel, dtype, DRAWS_PER_PROGRAM, id=f"{name}-few")
            yield pytest.param(
                kernel, dtype, count, id=f"{name}-500", marks=pytest.mark.nightly
            )


def test_there_are_500_in_each_dtype():
    assert sum(WINDOWED.values()) >= 500


@pytest.mark.parametrize(("kernel", "dtype", "count"), list(draws_in_dtypes()))
def test_in_other_dtypes_than_the_proofs(kernel, dtype, count, proofs):
    strategy = ALL_DRAWS[kernel][0]
    cases = []

    @settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.integers(1, 3).flatmap(lambda rank: strategy(kernel, rank)))
    def collect(case):
        cases.append(case)

    collect()
    assert len(cases) >= count
    for start in range(0, len(cases), DRAWS_PER_PROGRAM):
        assert_right_in_dtype(cases[start : start + DRAWS_PER_PROGRAM], dtype, proofs)


def assert_right_in_dtype(cases, dtype, proofs):
    """Values and gradients of many cases, from one program, are the textbook's."""
    points = []
    for number, case in enumerate(cases):
        arguments = case.draw(number, dtype)
        kernel = getattr(kernels, case.kernel)
        output = jax.eval_shape(lambda a, c=case, k=kernel: c.apply(k, a), arguments)
        points.append((arguments, draw_like(output, number)))

    def evaluate(points):
        return [
            pull_back(getattr(kernels, case.kernel), case, *point)
            for case, point in zip(cases, points, strict=True)
        ]

    results = jax.jit(evaluate, compiler_options=FAST_COMPILATION)(points)
    for case, point, result in zip(cases, points, results, strict=True):
        terms = max(a.size for a in jax.tree.leaves(point))
        actual = jax.tree.map(proofs.to_numpy, result)
        expected = proofs.evaluate_by_textbook(case, *point)
        sizes = proofs.evaluate_by_textbook(case, *in_magnitude(case, *point))
        for got, wanted, size in zip(
            *map(jax.tree.leaves, (actual, expected, sizes)), strict=True
        ):
            np.testing.assert_array_equal(np.isinf(got), np.isinf(wanted), str(case))
            finite = np.isfinite(wanted)
            largest = np.abs(size[finite]).max(initial=0.0)
            np.testing.assert_allclose(
                got[finite],
                wanted[finite],
                rtol=0,
                atol=tolerance(dtype, terms) * largest,
                err_msg=f"{case.kernel} {case.options}",
            )


def in_magnitude(case, arguments, cotangent):
    """The point from which a result is the sum of its terms' sizes.

    Terms may cancel, which says nothing of how large a rounding may be. What a maximum
    selects stays selected.
    """
    selects = "x" if case.kernel.startswith("max") else None
    arguments = {
        name: a if name == selects else abs(a) for name, a in arguments.items()
    }
    return arguments, jax.tree.map(abs, cotangent)


def inner(left, right):
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return float(sum(np.vdot(a, b) for a, b in pairs))


def norm(tree):
    return math.sqrt(inner(tree, tree))


def lax_in_one_layout(lhs, rhs, *, dimension_numbers, **options):
    """The twin of `conv_general_dilated` between transposes of operands and result.

    In some layouts the stock gradient makes XLA's CPU compiler abort the process (jax
    0.12, a check of shapes in its swapping of a convolution's operands).
    """
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    lhs, rhs = lhs.transpose(numbers.lhs_spec), rhs.transpose(numbers.rhs_spec)
    y = lax.conv_general_dilated(lhs, rhs, **options)
    return y.transpose(np.argsort(numbers.out_spec))


def assert_four_proofs(case, proofs):
    kernel, twin = getattr(kernels, case.kernel), getattr(autodiff, case.kernel)
    if case.kernel == "conv_general_dilated":
        twin = lax_in_one_layout
    arguments = case.draw(0)
    floating = {name: a for name, a in arguments.items() if is_floating(a)}
    output = jax.eval_shape(lambda a: case.apply(kernel, a), arguments)
    point = floating, draw_like(output, 1)
    direction, weights = draw_like(point, 2), draw_like(floating, 3)

    def program(fn, floating, cotangent):
        return pull_back(fn, case, {**arguments, **floating}, cotangent)

    def evaluate(point):
        gradients, pullback, value = jax.vjp(
            lambda *point: program(kernel, *point)[::-1], *point, has_aux=True
        )
        return value, gradients, pullback(weights), program(twin, *point)

    is_convolution = case.kernel.startswith("conv")
    options = CONVOLUTIONS if is_convolution else FAST_COMPILATION
    evaluate = jax.jit(evaluate, compiler_options=options)
    value, gradients, second, of_twin = evaluate(point)

    expected = proofs.evaluate_by_textbook(case, arguments, point[1])
    proofs.assert_close(value, expected[0], TOLERANCE)
    proofs.assert_close(gradients, {n: expected[1][n] for n in gradients}, TOLERANCE)

    proofs.assert_close((value, gradients), of_twin, TOLERANCE)

    linear = proofs.OPERATIONS[case.kernel].linear
    for names in () if "activation" in case.options else linear:
        present = [name for name in names if name in floating]
        forward = inner(value, point[1])
        backward = inner(*({n: of[n] for n in present} for of in (floating, gradients)))
        size = norm(value) * norm(point[1])
        assert abs(forward - backward) <= ADJOINT_TOLERANCE * size

    ahead, behind = (
        evaluate(jax.tree.map(lambda v, t, h=h: v + h * t, point, direction))[1]
        for h in (STEP, -STEP)
    )
    difference = jax.tree.map(lambda a, b: (a - b) / (2 * STEP), ahead, behind)
    deviation = inner(weights, difference) - inner(second, direction)
    size = norm(weights) * norm(difference) + norm(second) * norm(direction)
    assert abs(deviation) <= SECOND_ORDER_TOLERANCE * size
