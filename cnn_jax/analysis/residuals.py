"""Bytes of residuals: what a forward pass keeps in memory for its backward pass.

The measure: trace `jax.vjp(fn, *args)` and take the arrays that the returned function
carries, every one of them once. An argument that the backward pass reads again counts
like any other array (it cannot be freed in between), also where the caller would have
kept it anyway, as a filter. Two leaves that are the same array count once.

These are JAX's residuals, before XLA optimises the program. XLA may
still drop an array that the backward pass does not read, or compute it again; it never
keeps one that is not in this list. Nothing is computed or compiled here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def residuals(fn: Callable[..., Any], *args: Any) -> list[jax.ShapeDtypeStruct]:
    """Returns the arrays that `fn`'s forward pass saves, without computing anything.

    Args:
      fn: A function of arrays, differentiable in reverse.
      *args: Its positional arguments, arrays or `jax.ShapeDtypeStruct`s. It is
        differentiated by the floating-point ones; labels and random keys are held.

    Returns:
      Shape and dtype of each distinct array, in the order saved.

    Raises:
      ValueError: If no argument is floating-point.
    """
    varying = [
        index
        for index, arg in enumerate(args)
        if jnp.issubdtype(arg.dtype, jnp.floating)
    ]
    if not varying:
        raise ValueError(
            "residuals: got no floating-point argument, expected at least one to "
            "differentiate by."
        )

    def save(*args):
        def of_varying(*chosen):
            filled = dict(enumerate(args)) | dict(zip(varying, chosen, strict=True))
            return fn(*filled.values())

        pull_back = jax.vjp(of_varying, *(args[index] for index in varying))[1]
        return jax.tree.leaves(pull_back)

    # A traced value is one variable however often it is returned, so the variables
    # identify arrays where shapes and dtypes cannot.
    saved: Any = jax.make_jaxpr(save)(*args).jaxpr.outvars
    distinct = {id(variable): variable.aval for variable in saved}
    return [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in distinct.values()]


def residual_bytes(fn: Callable[..., Any], *args: Any) -> int:
    """Returns the bytes of `residuals(fn, *args)`, with the same arguments."""
    return sum(
        math.prod(array.shape) * array.dtype.itemsize for array in residuals(fn, *args)
    )
