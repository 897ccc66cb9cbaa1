"""`jax.lax.conv_general_dilated` with the gradients derived here.

Nothing is derived in this module. Operands are transposed into the layout of
`kernels.conv`, and the two dilations distinguish three cases:

- no dilation of `lhs`: `conv`;
- `lhs` dilated and no strides: `conv_transpose`, whose strides the dilation is;
- both: `conv` over `lhs` with zeros put between its entries. Its gradient is that of
  `conv` without the entries where the zeros were.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.geometry import (
    MAX_RANK,
    GeneralPadding,
    explicit_padding,
    is_integer,
    per_dimension,
    same_padding,
)
from cnn_jax.kernels import autodiff
from cnn_jax.kernels.conv import conv
from cnn_jax.kernels.conv_transpose import conv_transpose
from cnn_jax.kernels.kernel import kernel
from cnn_jax.kernels.operands import require_floating, require_matching_channels

_NAME = "conv_general_dilated"
_DTYPES = ("float16", "bfloat16", "float32", "float64")
_INSTEAD = "use jax.lax.conv_general_dilated there"


@kernel(autodiff.conv_general_dilated)
def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: GeneralPadding,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: lax.ConvDimensionNumbers | Sequence[str] | None = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: jax.typing.DTypeLike | None = None,
    out_sharding: object = None,
) -> jax.Array:
    """Convolves as `jax.lax.conv_general_dilated`: same arguments, our gradients.

    Meant to be passed to other libraries' layers, such as
    `flax.linen.Conv(..., conv_general_dilated=kernels.conv_general_dilated)`. Where it
    returns anything, value and gradients are those of the lax function; what the
    gradients here do not cover raises. Reverse mode only, as for `conv`.

    Args:
      lhs: Input, in the layout that `dimension_numbers` describes.
      rhs: Filters, likewise.
      window_strides: Step between two placements, one for each spatial dimension.
      padding: "SAME", "SAME_LOWER", "VALID", or a `(low, high)` pair for each spatial
        dimension; negative amounts crop.
      lhs_dilation: Step between two entries of the input, or None; needs explicit
        padding where it is not 1.
      rhs_dilation: Step between two taps of the filter, or None.
      dimension_numbers: Three strings such as `("NHWC", "HWIO", "NHWC")`, a
        `ConvDimensionNumbers`, or None for `("NCHW", "OIHW", "NCHW")` and the same in
        other ranks.
      feature_group_count: Into how many groups the channels are divided.
      batch_group_count: Only 1.
      precision: As in the lax function.
      preferred_element_type: The dtype to accumulate in and to return. A wider one than
        the operands' is reached by widening the operands, which is exact; gradients are
        formed in it, too, and rounded to the operands' dtype.
      out_sharding: Only None.

    Returns:
      The convolution in the layout that `dimension_numbers` describes.

    Raises:
      ValueError: If shapes, dtypes or arguments do not fit together; or for what is not
        covered: other dtypes than float16, bfloat16, float32 and float64, other than
        one to three spatial dimensions, `batch_group_count`, `out_sharding`, and a
        padding that crops more than the whole input on one side.
    """
    lhs, rhs = jnp.asarray(lhs), jnp.asarray(rhs)
    require_floating(_NAME, lhs=lhs, rhs=rhs)
    dtype = _result_dtype(lhs.dtype, preferred_element_type)
    _require_covered(batch_group_count, out_sharding)
    lhs_order, rhs_order, out_order = _channels_last(
        lhs.shape, rhs.shape, dimension_numbers
    )
    input_shape = tuple(lhs.shape[axis] for axis in lhs_order)
    filter_shape = tuple(rhs.shape[axis] for axis in rhs_order)
    require_matching_channels(
        _NAME,
        input_shape,
        filter_shape,
        feature_group_count,
        hint=_layout_that_fits(lhs.shape, rhs.shape, feature_group_count),
    )
    strides, spread, dilation = (
        _per_dimension(value, lhs.ndim - 2, name)
        for value, name in (
            (window_strides, "window_strides"),
            (lhs_dilation, "lhs_dilation"),
            (rhs_dilation, "rhs_dilation"),
        )
    )
    options = {
        "padding": _padding_pairs(
            padding, input_shape, filter_shape, strides, spread, dilation
        ),
        "dilation": dilation,
        "groups": feature_group_count,
        "precision": precision,
    }
    x = jnp.transpose(lhs, lhs_order).astype(dtype)
    w = jnp.transpose(rhs, rhs_order).astype(dtype)
    if max(spread) == 1:
        y = conv(x, w, strides=strides, **options)
    elif max(strides) == 1:
        y = conv_transpose(x, w, strides=spread, **options)
    else:
        # Recomputed in the backward pass: the zeros would be most of what is saved.
        @jax.checkpoint
        def spread_and_convolve(x, w):
            x = _put_zeros_between(x, spread)
            return conv(x, w, strides=strides, **options)

        y = spread_and_convolve(x, w)
    return jnp.transpose(y, np.argsort(out_order).tolist())


def _require_covered(batch_group_count, out_sharding):
    if batch_group_count != 1:
        raise ValueError(
            f"{_NAME}: got batch_group_count {batch_group_count!r}, expected 1; "
            f"{_INSTEAD}."
        )
    if out_sharding is not None:
        raise ValueError(
            f"{_NAME}: got out_sharding {out_sharding}, expected None; constrain the "
            f"result (jax.lax.with_sharding_constraint) or {_INSTEAD}."
        )


def _result_dtype(dtype, preferred):
    wanted = dtype if preferred is None else jax.dtypes.canonicalize_dtype(preferred)
    for checked in (dtype, wanted):
        if checked.name not in _DTYPES:
            raise ValueError(
                f"{_NAME}: got dtype {checked.name}, expected one of "
                f"{', '.join(_DTYPES)}; {_INSTEAD}."
            )
    if wanted != dtype and wanted.itemsize <= dtype.itemsize:
        raise ValueError(
            f"{_NAME}: got preferred_element_type {wanted} for {dtype} operands, "
            f"expected {dtype} or a wider dtype; cast the operands or the result."
        )
    return wanted


def _channels_last(lhs_shape, rhs_shape, dimension_numbers):
    """Returns the axes of lhs, rhs and the result in our order: NHWC and HWIO."""
    rank = len(lhs_shape)
    if len(rhs_shape) != rank or not 1 <= rank - 2 <= MAX_RANK:
        raise ValueError(
            f"{_NAME}: got lhs {lhs_shape} and rhs {rhs_shape}, expected equal ranks "
            f"with 1 to {MAX_RANK} spatial dimensions; {_INSTEAD}."
        )
    try:
        numbers = lax.conv_dimension_numbers(lhs_shape, rhs_shape, dimension_numbers)
        if any(sorted(spec) != list(range(rank)) for spec in numbers):
            raise ValueError(f"each must order the axes 0 to {rank - 1}")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{_NAME}: got dimension_numbers {dimension_numbers!r} for lhs {lhs_shape} "
            f"and rhs {rhs_shape}, expected three strings such as ('NHWC', 'HWIO', "
            f"'NHWC'), a ConvDimensionNumbers or None: {error}."
        ) from error
    (n, c, *sizes), (o, i, *window), (out_n, out_c, *out_sizes) = numbers
    return (n, *sizes, c), (*window, i, o), (out_n, *out_sizes, out_c)


def _layout_that_fits(lhs_shape, rhs_shape, groups: int):
    """Returns which of the two usual layouts has channels that fit, for an error."""
    if not is_integer(groups) or groups < 1:
        return ""
    spatial = "DHW"[5 - len(lhs_shape) :]
    last = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    first = (f"NC{spatial}", f"OI{spatial}", f"NC{spatial}")
    fitting = [
        numbers
        for numbers, inputs, group_inputs, outputs in (
            (last, lhs_shape[-1], *rhs_shape[-2:]),
            (first, lhs_shape[1], rhs_shape[1], rhs_shape[0]),
        )
        if inputs == group_inputs * groups and not outputs % groups
    ]
    # Where both do, the channels are not what is wrong.
    if len(fitting) != 1:
        return ""
    return f"; they fit dimension_numbers={fitting[0]}"


def _per_dimension(value, rank, name):
    if value is None and name != "window_strides":
        return (1,) * rank
    # lax takes any iterable, NumPy arrays included.
    value = tuple(value) if isinstance(value, list | np.ndarray) else value
    return per_dimension(value, rank, f"{_NAME}: {name}")


def _padding_pairs(padding: Any, input_shape, filter_shape, strides, spread, dilation):
    sizes, window = input_shape[1:-1], filter_shape[:-2]
    if isinstance(padding, str):
        if max(spread) > 1:
            raise ValueError(
                f"{_NAME}: got padding {padding!r} with lhs_dilation {spread}, "
                "expected (low, high) pairs; conv_transpose accepts 'SAME' and 'VALID'."
            )
        if padding.upper() == "SAME_LOWER":
            return tuple(
                same_padding(*dimension)[::-1]
                for dimension in zip(sizes, window, strides, dilation, strict=True)
            )
        # lax checks the name.
        return explicit_padding(padding, sizes, window, strides, dilation)  # type: ignore[arg-type]
    try:
        pairs = tuple((operator.index(a), operator.index(b)) for a, b in padding)
    except (TypeError, ValueError):
        pairs = ()
    if len(pairs) != len(sizes):
        raise ValueError(
            f"{_NAME}: got padding {padding!r}, expected 'SAME', 'SAME_LOWER', 'VALID' "
            f"or {len(sizes)} (low, high) pairs."
        )
    return pairs


def _put_zeros_between(x, steps):
    gaps = [(0, 0, step - 1) for step in steps]
    return lax.pad(x, np.zeros((), x.dtype), ((0, 0, 0), *gaps, (0, 0, 0)))
