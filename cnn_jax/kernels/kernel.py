"""The decorator of all public kernels: explicit mesh axes, and no forward mode.

**Explicit axes.** On a mesh whose axes are `AxisType.Explicit` (the default of
`jax.make_mesh`) the sharding of an array is part of its type, and each operation must
say how its result is sharded. The forms that are fast on one platform reshape and
contract in ways for which JAX finds no answer. A kernel therefore runs with such axes
set to `AxisType.Auto`, in the forward and in the backward pass, and its results get
the shardings that its twin's have. The twin is traced for that alone. Gradients get
their operands' shardings, since that is how `jax.sharding.reshard` is transposed.

**Forward mode.** JAX says that a custom VJP has none only when the program is lowered,
and without a name. A kernel that is traced with tangents raises by its own name, and
names its twin.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.interpreters.ad import JVPTracer
from jax.sharding import NamedSharding, PartitionSpec

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])


def kernel(twin: Callable[..., Any]) -> Callable[[_Kernel], _Kernel]:
    """Makes a function with a custom VJP a public kernel.

    Args:
      twin: The function of the same name and arguments in `kernels.autodiff`. Its
        results' shardings are the kernel's, where a mesh has explicit axes.

    Returns:
      A decorator. The function it returns takes arrays at the top level of its
      arguments only.
    """

    def decorate(function):
        @functools.wraps(function)
        def public(*args, **kwargs):
            try:
                mesh = _explicit_mesh((*args, *kwargs.values()))
                if mesh is None:
                    return function(*args, **kwargs)
                return _with_automatic_axes(function, twin, mesh, args, kwargs)
            except ForwardModeError:
                raise ForwardModeError(_no_forward_mode(twin.__name__)) from None

        return public

    return decorate


class ForwardModeError(TypeError):
    """Forward-mode differentiation of a kernel, whose VJP alone is defined."""


class custom_vjp(jax.custom_vjp[Any]):  # noqa: N801 (named as what it stands for)
    """`jax.custom_vjp` that raises while it is traced with tangents, not later.

    Tangents that reach it later, in a program that `jax.jit` or `jax.checkpoint` has
    traced before, or in the function that `jax.linearize` returns, raise JAX's own
    error.
    """

    def __call__(self, *args: Any) -> Any:
        """Applies the function to positional arguments."""
        if any(map(_has_tangent, args)):
            raise ForwardModeError(_no_forward_mode("the twin"))
        return super().__call__(*args)


def _has_tangent(value) -> bool:
    # Below reverse mode's tracer a tangent is allowed: that is forward over reverse.
    while isinstance(value, jax.core.Tracer) and hasattr(value, "val"):
        value = value.val  # what `vmap` maps over
    return isinstance(value, JVPTracer)


def _no_forward_mode(name: str) -> str:
    return (
        f"{name}: got tangents (jvp, jacfwd), but forward-mode differentiation of a "
        f"custom_vjp is not defined. Use kernels.autodiff.{name}, the same function in "
        "plain lax, or forward over reverse mode (such as jax.hessian), which works."
    )


def _explicit_mesh(values) -> jax.sharding.AbstractMesh | None:
    """Returns the mesh of the first array among values on a mesh with explicit axes."""
    for value in values:
        if isinstance(value, jax.Array):
            mesh = jax.typeof(value).sharding.mesh
            if not mesh.empty and mesh.explicit_axes:
                return mesh
    return None


def _with_automatic_axes(function, twin, mesh, args, kwargs):
    # All strings, since JAX sorts them.
    positions = [str(position) for position in range(len(args))]
    names = (*positions, *kwargs)
    values = dict(zip(names, (*args, *kwargs.values()), strict=True))
    arrays = {name: value for name, value in values.items() if _is_operand(value)}

    def call(function, arrays):
        merged = values | arrays
        return function(
            *(merged[position] for position in positions),
            **{name: merged[name] for name in kwargs},
        )

    shardings = _result_shardings(call, function, twin, mesh, arrays)
    run = jax.sharding.auto_axes(
        functools.partial(call, function),
        axes=mesh.explicit_axes,
        out_sharding=shardings,
    )
    return run(arrays)


def _is_operand(value) -> bool:
    # A number such as epsilon may come as an array, and must stay one that has a value.
    is_number = (
        isinstance(value, jax.Array)
        and not isinstance(value, jax.core.Tracer)
        and value.ndim == 0
        and jnp.issubdtype(value.dtype, jnp.floating)
    )
    return isinstance(value, jax.Array) and not is_number


def _result_shardings(call, function, twin, mesh, arrays):
    shardings = []

    def traced(arrays):
        # Noted here: what `eval_shape` returns has no sharding on a mesh of which only
        # some axes are explicit.
        results = call(twin, arrays)
        shardings.append(jax.tree.map(lambda leaf: jax.typeof(leaf).sharding, results))
        return results

    try:
        jax.eval_shape(traced, arrays)
    except Exception as error:
        # The twin checks nothing: what the kernel does not take either is explained
        # by the kernel.
        unsharded = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), arrays
        )
        jax.eval_shape(functools.partial(call, function), unsharded)
        described = ", ".join(str(jax.typeof(array)) for array in arrays.values())
        raise ValueError(
            f"{twin.__name__}: got {described} on a mesh with explicit axes, where JAX "
            "finds no sharding of the result; reshard the arguments first "
            "(jax.sharding.reshard), or make the mesh with "
            f"axis_types=(AxisType.Auto, ...). JAX's reason: {error}"
        ) from error
    # Replicated, where the twin's result follows from what was made outside of a mesh.
    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(
        lambda sharding: replicated if sharding.mesh.empty else sharding, shardings[0]
    )
