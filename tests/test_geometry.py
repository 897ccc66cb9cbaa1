import dataclasses
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from cnn_jax.geometry import (
    Window,
    ceil_padding,
    dilated_size,
    explicit_padding,
    explicit_transposed_padding,
    output_size,
    per_dimension,
    same_padding,
    spread_size,
    transposed_output_size,
    transposed_same_padding,
    transposed_valid_padding,
)

DIMENSION = st.tuples(
    st.integers(1, 12),  # input
    st.integers(1, 5),  # window
    st.integers(1, 4),  # stride
    st.integers(1, 3),  # dilation
    st.tuples(st.integers(-1, 4), st.integers(-1, 4)),  # padding
)


def count_placements(size, window, stride, padding, dilation):
    """Counts by trying every start in the padded input."""
    low, high = padding
    last = size + low + high - dilated_size(window, dilation)
    return sum(1 for start in range(0, size + low + high, stride) if start <= last)


@settings(derandomize=True, deadline=None, database=None)
@given(DIMENSION)
def test_output_size_counts_the_placements(drawn):
    size, window, stride, dilation, padding = drawn
    assert output_size(size, window, stride, padding, dilation) == count_placements(
        size, window, stride, padding, dilation
    )


@settings(derandomize=True, deadline=None, database=None)
@given(DIMENSION)
def test_same_padding_is_what_xla_makes_of_same(drawn):
    size, window, stride, dilation, _ = drawn
    padding = same_padding(size, window, stride, dilation)
    assert [padding] == lax.padtype_to_pads(
        [size], [dilated_size(window, dilation)], [stride], "SAME"
    )
    assert output_size(size, window, stride, padding, dilation) == math.ceil(
        size / stride
    )


@settings(derandomize=True, deadline=None, database=None)
@given(DIMENSION)
def test_gradient_paddings_give_back_the_sizes(drawn):
    """Both gradients are correlations whose output sizes must be the operands'."""
    size, window, stride, dilation, padding = drawn
    if size + min(padding[0], 0) + min(padding[1], 0) < 0:
        return
    resolved = Window.resolve(
        (size,), window, strides=stride, dilation=dilation, padding=(padding,)
    )
    (out,) = resolved.output_sizes
    if out == 0:
        return
    spread = (out - 1) * stride + 1
    (pair,) = resolved.input_grad_padding
    assert output_size(spread, window, 1, pair, dilation) == size
    (pair,) = resolved.filter_grad_padding
    assert output_size(size, out, dilation, pair, stride) == window


def count_rounded_up(size, window, stride, padding):
    """Counts as PyTorch's `ceil_mode` does: windows that begin in input or padding."""
    count = 1
    for start in range(stride - padding, size, stride):
        # Nothing is left over where the one before already reached the end.
        count += start - stride + window < size + padding
    return count


@settings(derandomize=True, deadline=None, database=None, max_examples=300)
@given(DIMENSION, st.integers(0, 2))
def test_ceil_padding_leaves_nothing_over(drawn, padding):
    size, window, stride, _, _ = drawn
    padding = min(padding, window // 2)  # PyTorch takes no more
    if size + 2 * padding + stride - 1 < window:
        return  # Not even a window that begins at the padding's edge.
    low, high = ceil_padding(size, window, stride, padding)
    out = output_size(size, window, stride, (low, high))
    assert low == padding <= high
    assert out == count_rounded_up(size, window, stride, padding)
    # The last window begins inside, so it never sees padding alone, and what was
    # added is at most what it needs.
    assert (out - 1) * stride - low < size
    if high > padding:
        assert (out - 1) * stride + window == low + size + high


def test_ceil_padding():
    assert ceil_padding(112, 3, 2) == (0, 1)
    assert ceil_padding(7, 3, 2) == (0, 0)
    assert ceil_padding(7, 2, 2) == (0, 1)
    # The third window would begin in the padding behind.
    assert ceil_padding(3, 2, 2, padding=1) == (1, 1)
    assert ceil_padding(2, 3, 2) == (0, 1)


def test_an_odd_total_puts_the_extra_element_behind():
    assert same_padding(4, 2) == (0, 1)
    assert same_padding(8, 3, stride=2) == (0, 1)
    assert same_padding(7, 3, stride=2) == (1, 1)
    assert same_padding(5, 1, stride=2) == (0, 0)


def test_a_window_that_does_not_fit_has_no_output():
    assert output_size(3, 4) == 0
    assert output_size(3, 2, dilation=3) == 0
    assert output_size(0, 1) == 0
    assert output_size(0, 2, padding=(1, 1)) == 1


def test_dilated_size():
    assert [dilated_size(3, d) for d in (1, 2, 3)] == [3, 5, 7]
    assert dilated_size(1, 9) == 1


def test_per_dimension():
    assert per_dimension(2, 3, "strides") == (2, 2, 2)
    assert per_dimension([1, 2], 2, "strides") == (1, 2)
    assert per_dimension(np.int64(2), 2, "strides") == (2, 2)
    assert all(type(entry) is int for entry in per_dimension(np.array(3), 2, "strides"))


@pytest.mark.parametrize(
    "value", [0, -1, 1.0, True, "11", None, (1,), (1, 2, 3), (1, 0), (1, 1.5), {1, 2}]
)
def test_per_dimension_rejects(value):
    with pytest.raises(ValueError, match=r"^strides: got"):
        per_dimension(value, 2, "strides")


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        ("VALID", ((0, 0), (0, 0))),
        ("valid", ((0, 0), (0, 0))),
        ("SAME", ((1, 1), (0, 1))),
        ("same", ((1, 1), (0, 1))),
        (2, ((2, 2), (2, 2))),
        (np.int32(1), ((1, 1), (1, 1))),
        (0, ((0, 0), (0, 0))),
        ((1, 2), ((1, 1), (2, 2))),
        (((1, 2), 3), ((1, 2), (3, 3))),
        ([[0, 1], [-1, 0]], ((0, 1), (-1, 0))),
    ],
)
def test_explicit_padding(padding, expected):
    assert explicit_padding(padding, (5, 6), (3, 3), (1, 2), (1, 1)) == expected


@pytest.mark.parametrize(
    "padding",
    ["FULL", "", 1.0, True, None, (1,), (1, 2, 3), ((1, 2, 3), 0), ((1.0, 2), 0), "SV"],
)
def test_explicit_padding_rejects(padding):
    with pytest.raises(ValueError, match=r"^padding: got"):
        explicit_padding(padding, (5, 6), (3, 3), (1, 2), (1, 1))


def test_window_resolves_every_argument():
    window = Window.resolve((9, 7), (3, 2), strides=2, padding="SAME", dilation=(2, 1))
    assert window == Window(
        input_sizes=(9, 7),
        sizes=(3, 2),
        strides=(2, 2),
        padding=((2, 2), (0, 1)),
        dilation=(2, 1),
    )
    assert window.rank == 2
    assert window.dilated_sizes == (5, 2)
    assert window.output_sizes == (5, 4)
    assert not window.is_pointwise


def test_window_is_a_hashable_constant():
    window = Window.resolve([5], 3)
    assert hash(window) == hash(Window.resolve((5,), [3]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        window.sizes = (4,)


def test_pointwise():
    assert Window.resolve((5, 5), 1, strides=2).is_pointwise
    assert not Window.resolve((5, 5), (1, 2)).is_pointwise
    assert not Window.resolve((5, 5), 1, padding=1).is_pointwise


@pytest.mark.parametrize("sizes", [(), (2, 2, 2, 2)])
def test_window_rejects_other_ranks(sizes):
    with pytest.raises(ValueError, match="spatial dimensions, expected 1 to 3"):
        Window.resolve(sizes, 1)


def test_window_rejects_cropping_everything():
    Window.resolve((4,), 1, padding=((-2, -2),))
    with pytest.raises(ValueError, match="crops more than the input's 4"):
        Window.resolve((4,), 1, padding=((-3, -2),))


@settings(derandomize=True, deadline=None, database=None)
@given(DIMENSION)
@pytest.mark.parametrize("name", ["SAME", "VALID"])
def test_transposed_paddings_give_the_sizes_of_lax(name, drawn):
    size, window, stride, dilation, _ = drawn
    (padding,) = explicit_transposed_padding(name, (window,), (stride,), (dilation,))
    arrays = [
        jax.ShapeDtypeStruct(s, "float32") for s in [(1, size, 1), (window, 1, 1)]
    ]
    expected = jax.eval_shape(
        lambda x, w: lax.conv_transpose(x, w, (stride,), name, (dilation,)), *arrays
    )
    out = transposed_output_size(size, window, stride, padding, dilation)
    assert out == expected.shape[1]
    beyond = max(dilated_size(window, dilation) - stride, 0)
    assert out == size * stride + (beyond if name == "VALID" else 0)


def test_transposed_paddings():
    assert transposed_same_padding(3, stride=2) == (2, 1)
    assert transposed_same_padding(4) == (2, 1)
    assert transposed_same_padding(2, stride=3) == (1, 2)
    assert transposed_same_padding(2, stride=2, dilation=2) == (2, 1)
    assert transposed_valid_padding(3, stride=2) == (2, 2)
    assert transposed_valid_padding(2, stride=3) == (1, 2)
    assert transposed_valid_padding(1) == (0, 0)


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        ("same", ((2, 1), (1, 1))),
        ("Valid", ((2, 2), (2, 2))),
        (2, ((2, 2), (2, 2))),
        ((1, (0, -2)), ((1, 1), (0, -2))),
    ],
)
def test_explicit_transposed_padding(padding, expected):
    assert explicit_transposed_padding(padding, (3, 3), (2, 1), (1, 1)) == expected


@pytest.mark.parametrize(
    "padding", ["FULL", "SAME_LOWER", 1.0, None, (1,), ((1, 2, 3),)]
)
def test_explicit_transposed_padding_rejects(padding):
    with pytest.raises(ValueError, match=r"^padding: got"):
        explicit_transposed_padding(padding, (3, 3), (2, 1), (1, 1))


@settings(derandomize=True, deadline=None, database=None, max_examples=300)
@given(DIMENSION, st.integers(0, 3))
def test_a_transposed_window_fits_as_often_as_the_input_is_long(drawn, fewer):
    """It leads from the output to the input, by the paddings that lax reads."""
    size, window, stride, dilation, (low, high) = drawn
    size = max(size - 3 * fewer, 0)
    low, high = 2 * low - 1, high - fewer
    spread = spread_size(size, stride)
    if spread + min(low, 0) + min(high, 0) < 0:
        return
    resolved = Window.resolve_transposed(
        (size,),
        window,
        strides=stride,
        dilation=dilation,
        padding=((low, high),),
    )
    out = transposed_output_size(size, window, stride, (low, high), dilation)
    assert resolved.input_sizes == (out,)
    assert resolved.output_sizes == (size,)
    assert resolved.input_grad_padding[0][0] == low
    if out > 0:
        assert resolved.input_grad_padding == ((low, high),)
        # Where a window is refused for cropping too much, this one never is.
        padding = resolved.padding
        assert out + min(padding[0][0], 0) + min(padding[0][1], 0) >= 0


def test_a_transposed_window_is_pointwise_where_it_can_be():
    """At stride 2, "SAME" pads a zero behind that no entry reaches."""
    assert explicit_transposed_padding("SAME", (1,), (2,), (1,)) == ((0, 1),)
    assert Window.resolve_transposed((4,), 1, strides=2).is_pointwise


def test_a_transposed_window_rejects_cropping_everything():
    Window.resolve_transposed((3,), 1, strides=2, padding=((-2, -3),))
    with pytest.raises(ValueError, match="crops more than the spread input's 5"):
        Window.resolve_transposed((3,), 1, strides=2, padding=((-3, -3),))
    with pytest.raises(ValueError, match="spatial dimensions, expected 1 to 3"):
        Window.resolve_transposed((), 1)
