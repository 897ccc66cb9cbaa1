"""Checks and conversions of a kernel's operands."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVarTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.geometry import is_integer, layout_hint

Arrays = TypeVarTuple("Arrays")


def to_array(value: jax.typing.ArrayLike | None) -> jax.Array | None:
    """Converts to a JAX array; leaves None as it is."""
    return None if value is None else jnp.asarray(value)


def require_floating(function: str, **arrays: jax.Array | None) -> None:
    """Raises ValueError unless all arrays are floating and of one dtype.

    Kernels never promote: a float32 filter on a bfloat16 image is nearly always a cast
    that was forgotten, and promotion would double the memory silently.
    """
    dtypes = {name: array.dtype for name, array in arrays.items() if array is not None}
    described = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
    if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes.values()):
        raise ValueError(f"{function}: got {described}, expected floating-point.")
    if len(set(dtypes.values())) > 1:
        raise ValueError(
            f"{function}: got {described}, expected one dtype; cast the operands first."
        )


def require_matching_channels(
    function: str,
    input_shape: tuple[int, ...],
    filter_shape: tuple[int, ...],
    groups: int,
    *,
    bias_shape: tuple[int, ...] | None = None,
    hint: str | None = None,
) -> None:
    """Raises ValueError unless a filter fits an input in rank, channels and groups.

    Args:
      function: The caller's name; the message begins with it.
      input_shape: `(n, *spatial, in)`.
      filter_shape: `(*spatial, in / groups, out)`.
      groups: The number of groups.
      bias_shape: `(out,)`, or None; it is not checked, but decides which axes to move.
      hint: What to append where the operands do not fit. None says which axes to move
        or add, if that would make them fit.
    """
    if not 3 <= len(input_shape) <= 5:
        raise ValueError(
            f"{function}: got an input of shape {input_shape}, expected "
            "(n, *spatial, in) with one to three spatial dimensions."
        )
    if not is_integer(groups) or groups < 1:
        raise ValueError(
            f"{function}: got groups {groups!r}, expected a positive integer."
        )

    def fits(x_shape, w_shape):
        return (
            len(x_shape) == len(w_shape) <= 5
            and x_shape[-1] == w_shape[-2] * groups
            and not w_shape[-1] % groups
            and bias_shape in (None, w_shape[-1:])
        )

    if len(filter_shape) != len(input_shape):
        if hint is None:
            hint = _batch_hint(input_shape, filter_shape, fits)
        raise ValueError(
            f"{function}: got a filter of rank {len(filter_shape)} {filter_shape} for "
            f"an input of rank {len(input_shape)} {input_shape}, expected "
            f"(*spatial, in / groups, out){hint}."
        )
    inputs, (group_inputs, outputs) = input_shape[-1], filter_shape[-2:]
    if hint is None and inputs != group_inputs * groups:
        hint = _channels_hint(function, input_shape, filter_shape, groups, fits)
    hint = hint or ""
    if inputs % groups or outputs % groups:
        raise ValueError(
            f"{function}: got {inputs} input and {outputs} output channels for "
            f"{groups} groups, expected numbers that the groups divide{hint}."
        )
    if inputs != group_inputs * groups:
        raise ValueError(
            f"{function}: got an input with {inputs} channels and a filter "
            f"{filter_shape} for {groups} groups, expected {inputs // groups} input "
            f"channels in the filter{hint}."
        )


def _batch_hint(input_shape, filter_shape, fits) -> str:
    """Says how to add the batch axis that an input lacks, if then they fit."""
    if fits((1, *input_shape), filter_shape):
        return "; x looks like one example without a batch axis: x[None]"
    if fits((1, *input_shape[1:], input_shape[0]), filter_shape):
        return (
            "; x looks like one example with its channels first: "
            "jnp.moveaxis(x, 0, -1)[None]"
        )
    return ""


def _channels_hint(function, input_shape, filter_shape, groups, fits) -> str:
    """Says which axes to move of an input, a filter or both, if then they fit."""

    def move_input(to_filter):
        return layout_hint(
            input_shape,
            to_filter[-2] * groups,
            fits=lambda moved: fits(moved, to_filter),
        )

    moved_input = move_input(filter_shape)
    if moved_input:
        return moved_input
    # PyTorch's filters: (out, in / groups, *spatial), and transposed ones have the
    # input first.
    first, second, *sizes = filter_shape
    is_transposed = function == "conv_transpose"
    last = (first, second) if is_transposed else (second, first)
    moved_filter = (*sizes, *last)
    fits_input = fits(input_shape, moved_filter)
    moved_input = "" if fits_input else move_input(moved_filter)
    if not (fits_input or moved_input):
        return ""
    spatial = "DHW"[5 - len(filter_shape) :]
    layout, axes = ("IO", "(-2, -1)") if is_transposed else ("OI", "(-1, -2)")
    return moved_input + (
        f"; the last axes of a filter are its channels ({spatial}IO); w looks like "
        f"{layout}{spatial}: jnp.moveaxis(w, (0, 1), {axes})"
    )


def require_channels(
    function: str,
    x: jax.Array,
    *,
    fits: Callable[[tuple[int, ...]], bool] = lambda shape: True,
    **vectors: jax.Array | None,
) -> None:
    """Raises ValueError unless all vectors hold one number for each channel of x.

    Their dtype is x's or the one that sums over x are formed in: parameters are often
    kept in float32 beside bfloat16 images. None passes.

    Args:
      function: The caller's name; the message begins with it.
      x: `(..., channels)`.
      fits: Whether the call takes an x of another shape, beside the vectors: of one
        that it does not take, no error says to move axes.
      **vectors: `(channels,)`, or None.
    """
    dtypes = (x.dtype, accumulation_dtype(x.dtype))
    given = {name: vector for name, vector in vectors.items() if vector is not None}
    for name, vector in given.items():
        if vector.shape != x.shape[-1:]:
            hint = ""
            if {each.shape for each in given.values()} == {vector.shape[:1]}:
                hint = layout_hint(x.shape, vector.shape[0], fits=fits)
            raise ValueError(
                f"{function}: got {name} {vector.shape}, expected {x.shape[-1:]}{hint}."
            )
        if vector.dtype not in dtypes:
            raise ValueError(
                f"{function}: got {name} {vector.dtype} for x {x.dtype}, expected "
                f"{dtypes[0]} or {dtypes[1]}."
            )


def require_epsilon(function: str, epsilon: float, x: jax.Array) -> float:
    """Checks what is added to a variance, as the dtype of x's statistics has it.

    Returns:
      The number as a Python float.

    Raises:
      ValueError: If it is negative, not finite there, or rounds to 0 without being 0.
    """
    info = jnp.finfo(accumulation_dtype(x.dtype))
    is_number = not isinstance(epsilon, str | bool | None)
    value = float(epsilon) if is_number else float("nan")
    if value != 0 and not float(info.tiny) <= value <= float(info.max):
        raise ValueError(
            f"{function}: got epsilon {epsilon!r}, expected 0, or a number from "
            f"{float(info.tiny):.2g} to {float(info.max):.2g}, as {info.dtype} has it."
        )
    return value


def align_manual_axes(*arrays: *Arrays) -> tuple[*Arrays]:
    """Marks all operands as varying over each manual axis that any varies over.

    Inside `jax.shard_map` a filter may be replicated while the images are sharded. A
    custom VJP rule must return a gradient of the filter's own type, yet the gradient it
    computes differs from device to device. Casting the filter to "varying" before the
    rule sees it makes the types agree, and the cast's own transpose is the sum over
    devices that the replicated filter's gradient needs.
    """
    axes: set[str] = set()
    for array in arrays:
        if array is not None:
            axes |= jax.typeof(array).manual_axis_type.varying
    return tuple(  # type: ignore[return-value]  # one for each, of its own type
        array if array is None else cast_to_varying(array, axes)  # type: ignore[arg-type]
        for array in arrays
    )


def class_indices(labels: jax.typing.ArrayLike) -> jax.Array:
    """Returns integer labels in a dtype that class numbers can be compared in.

    An int8 or uint8 cannot hold the number of every class: what is compared with it in
    its own dtype wraps around. Labels of NumPy beyond int32, which JAX would wrap
    around where 64 bits are not enabled, become a number that is no class either.

    Args:
      labels: Integers of any shape and width.

    Returns:
      The same numbers in int32, or in the wider or unsigned dtype of 32 bits or more
      that they had.
    """
    if isinstance(labels, np.ndarray | np.generic) and labels.dtype.itemsize > 4:
        labels = np.minimum(labels, np.iinfo(np.int32).max)
        labels = np.maximum(labels, -1) if labels.dtype.kind == "i" else labels
    labels = jnp.asarray(labels)
    return labels.astype(jnp.int32) if jnp.iinfo(labels.dtype).bits < 32 else labels


def accumulation_dtype(dtype: jax.typing.DTypeLike) -> np.dtype:
    """Returns the dtype in which sums over `dtype` are formed: at least float32."""
    # Not jnp.promote_types, which refuses under strict dtype promotion.
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def widen(array: jax.Array) -> jax.Array:
    """Converts to the dtype in which sums are formed: at least float32."""
    return array.astype(accumulation_dtype(array.dtype))


def cast_to_varying(array: jax.Array, axes: Iterable[str]) -> jax.Array:
    """Marks an array as differing between devices, inside `jax.shard_map`.

    Args:
      array: Any array.
      axes: The mapped axes along which it is to differ; those along which it does
        already are left out.
    """
    missing = tuple(sorted(set(axes) - jax.typeof(array).manual_axis_type.varying))
    return jax.lax.pcast(array, missing, to="varying") if missing else array
