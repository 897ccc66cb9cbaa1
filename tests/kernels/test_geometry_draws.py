"""Drawn geometries: 450 convolutions and poolings, float64, against JAX's autodiff.

The draws are derandomized: the same ones in every run.
"""

import chex
import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax

from cnn_jax import kernels
from cnn_jax.analysis.cases import Case, normal, spaced
from cnn_jax.analysis.gradcheck import (
    FAST_COMPILATION,
    draw_like,
    pull_back,
    relative_error,
)
from cnn_jax.geometry import spread_size
from cnn_jax.kernels import autodiff

TOLERANCE = 1e-12


@st.composite
def windows(draw, rank, has_dilation=True):
    """Draws the input's sizes and the options of a window over them."""
    largest = 9 - 2 * rank

    def per_dimension(low, high):
        return draw(st.tuples(*[st.integers(low, high)] * rank))

    sizes = per_dimension(1, largest)
    options = {"window": per_dimension(1, 4), "strides": per_dimension(1, 3)}
    if has_dilation:
        options["dilation"] = per_dimension(1, 2)
    # A negative amount crops; a side never crops more than half of the input.
    sides = [st.integers(-((n - 1) // 2), 3) for n in sizes]
    options["padding"] = draw(
        st.sampled_from(["SAME", "VALID"])
        | st.integers(0, 2)
        | st.tuples(*(st.tuples(side, side) for side in sides))
    )
    return sizes, options


@st.composite
def convolutions(draw, rank):
    sizes, options = draw(windows(rank))
    window = options.pop("window")
    groups, inputs, outputs = draw(
        st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 3))
    )
    x = (draw(st.integers(1, 2)), *sizes, groups * inputs)
    w = (*window, inputs, groups * outputs)
    return x, w, {**options, "groups": groups}


@st.composite
def poolings(draw, rank, has_dilation):
    sizes, options = draw(windows(rank, has_dilation))
    if not has_dilation:
        options["count_include_pad"] = draw(st.booleans())
    return (draw(st.integers(1, 2)), *sizes, draw(st.integers(1, 2))), options


@st.composite
def transposed_convolutions(draw, rank):
    x, w, options = draw(convolutions(rank))
    if not isinstance(options["padding"], str):
        # From cropping all of the spread input to padding beyond the window's reach.
        pairs = []
        for size, stride in zip(x[1:-1], options["strides"], strict=True):
            spread = spread_size(size, stride)
            low = draw(st.integers(-spread, 8 - rank))
            high = draw(st.integers(-spread - min(low, 0), 8 - rank))
            pairs.append((low, high))
        options["padding"] = tuple(pairs)
    return x, w, options


@st.composite
def general_convolutions(draw, rank):
    """Draws operands whose axes stand in any order, and the lax arguments."""
    x, w, options = draw(convolutions(rank))
    spread = draw(st.tuples(*[st.integers(1, 3)] * rank))
    spread = draw(st.sampled_from([None, spread]))
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
    # Strides and paddings follow the order of the filter's spatial axes.
    named = [
        "".join(layout[axis] for axis in order)
        for layout, order in zip(layouts, orders, strict=True)
    ]
    kept = [spatial.index(letter) for letter in named[1] if letter in spatial]

    def reordered(values):
        follows = values is not None and not isinstance(values, str)
        return tuple(values[axis] for axis in kept) if follows else values

    arrays = [
        tuple(shape[axis] for axis in order)
        for shape, order in zip((x, w), orders, strict=False)
    ]
    numbers = draw(
        st.sampled_from(
            [named, lax.conv_dimension_numbers(*arrays, named)],
        )
    )
    return (
        *arrays,
        {
            "window_strides": reordered(strides),
            "padding": reordered(padding),
            "lhs_dilation": reordered(spread),
            "rhs_dilation": draw(
                st.sampled_from([None, reordered(options["dilation"])])
            ),
            "dimension_numbers": numbers,
            "feature_group_count": options["groups"],
        },
    )


def drawn_geometries(count, strategy):
    """Runs a test on `count` draws."""

    def decorate(test):
        run = settings(
            max_examples=count,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        )
        return run(given(geometry=strategy)(test))

    return decorate


def lax_in_one_layout(lhs, rhs, *, dimension_numbers, **options):
    """The twin between transposes of its operands and result.

    In some layouts the stock gradient makes XLA's CPU compiler abort the process (jax
    0.12, a check of shapes in its swapping of a convolution's operands).
    """
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    lhs, rhs = lhs.transpose(numbers.lhs_spec), rhs.transpose(numbers.rhs_spec)
    y = lax.conv_general_dilated(lhs, rhs, **options)
    return y.transpose(np.argsort(numbers.out_spec))


def assert_agrees_with_twin(case, twin=None):
    """Compares a kernel's value and gradients with its twin's, in one program."""
    twin = twin or getattr(autodiff, case.kernel)
    with jax.enable_x64(True):
        arguments = case.draw(0)
        fns = [getattr(kernels, case.kernel), twin]
        output = jax.eval_shape(lambda a: case.apply(fns[1], a), arguments)
        both = jax.jit(
            lambda a, dy: [pull_back(fn, case, a, dy) for fn in fns],
            compiler_options=FAST_COMPILATION,
        )
        actual, expected = both(arguments, draw_like(output, 1))
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    errors = jax.tree.map(relative_error, actual, expected)
    assert max(jax.tree.leaves(errors)) <= TOLERANCE, errors


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv(rank):
    @drawn_geometries(40, convolutions(rank))
    def check(geometry):
        x, w, options = geometry
        arguments = {"x": normal(*x), "w": normal(*w), "b": normal(w[-1])}
        assert_agrees_with_twin(Case("conv", "drawn", arguments, options))

    check()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_transpose(rank):
    @drawn_geometries(40, transposed_convolutions(rank))
    def check(geometry):
        x, w, options = geometry
        arguments = {"x": normal(*x), "w": normal(*w), "b": normal(w[-1])}
        assert_agrees_with_twin(Case("conv_transpose", "drawn", arguments, options))

    check()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_general_dilated(rank):
    @drawn_geometries(30, general_convolutions(rank))
    def check(geometry):
        lhs, rhs, options = geometry
        arguments = {"lhs": normal(*lhs), "rhs": normal(*rhs)}
        case = Case("conv_general_dilated", "drawn", arguments, options)
        assert_agrees_with_twin(case, lax_in_one_layout)

    check()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_max_pool(rank):
    @drawn_geometries(25, poolings(rank, has_dilation=True))
    def check(geometry):
        x, options = geometry
        assert_agrees_with_twin(Case("max_pool", "drawn", {"x": spaced(*x)}, options))

    check()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_avg_pool(rank):
    @drawn_geometries(15, poolings(rank, has_dilation=False))
    def check(geometry):
        x, options = geometry
        assert_agrees_with_twin(Case("avg_pool", "drawn", {"x": normal(*x)}, options))

    check()
