"""What every kernel does to its operands before its core sees them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def require_floating(function: str, **arrays: jax.Array | None) -> None:
    """Raises ValueError unless all arrays are floating and of one dtype.

    Kernels never promote: a float32 filter on a bfloat16 image is nearly always a cast
    that someone forgot, and it would double the memory in silence.
    """
    dtypes = {name: array.dtype for name, array in arrays.items() if array is not None}
    described = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
    if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes.values()):
        raise ValueError(f"{function}: got {described}, expected floating-point.")
    if len(set(dtypes.values())) > 1:
        raise ValueError(
            f"{function}: got {described}, expected one dtype; cast the operands first."
        )


def require_channels(function: str, x: jax.Array, **vectors: jax.Array | None) -> None:
    """Raises ValueError unless all vectors hold one number for each channel of x.

    Their dtype is x's or the one that sums over x are formed in: parameters are often
    kept in float32 beside bfloat16 images. None passes.
    """
    dtypes = (x.dtype, accumulation_dtype(x.dtype))
    for name, vector in vectors.items():
        if vector is None:
            continue
        if vector.shape != x.shape[-1:]:
            raise ValueError(
                f"{function}: got {name} {vector.shape}, expected {x.shape[-1:]}."
            )
        if vector.dtype not in dtypes:
            raise ValueError(
                f"{function}: got {name} {vector.dtype} for x {x.dtype}, expected "
                f"{dtypes[0]} or {dtypes[1]}."
            )


def align_manual_axes(*arrays: jax.Array | None) -> tuple[jax.Array | None, ...]:
    """Marks all operands as varying over each manual axis that any varies over.

    Inside `jax.shard_map` a filter may be replicated while the images are sharded. A
    custom VJP rule must return a gradient of the filter's own type, yet the gradient it
    computes differs from device to device. Casting the filter to "varying" before the
    rule sees it makes the types agree, and the cast's own transpose is the sum over
    devices that the replicated filter's gradient needs.
    """
    axes: set = set()
    for array in arrays:
        if array is not None:
            axes |= jax.typeof(array).manual_axis_type.varying
    return tuple(
        array if array is None else _cast_to_varying(array, axes) for array in arrays
    )


def accumulation_dtype(dtype) -> np.dtype:
    """Returns the dtype in which sums over `dtype` are formed: at least float32."""
    # Not jnp.promote_types, which refuses under strict dtype promotion.
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def widen(array: jax.Array) -> jax.Array:
    """Converts to the dtype in which sums are formed: at least float32."""
    return array.astype(accumulation_dtype(array.dtype))


def _cast_to_varying(array: jax.Array, axes: set) -> jax.Array:
    missing = tuple(sorted(axes - jax.typeof(array).manual_axis_type.varying))
    return jax.lax.pcast(array, missing, to="varying") if missing else array
