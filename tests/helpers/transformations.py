"""Kernels under JAX's transformations: a table of what works, by running each.

`try_transformations` evaluates a kernel's first case of the table under each of
`TRANSFORMATIONS` and compares with the twin under the same. "works" means that the
numbers agree; everything else in the table is the reason why there are none.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnn_jax import kernels
from cnn_jax.analysis.cases import CASES, Case, is_floating
from cnn_jax.analysis.gradcheck import FAST_COMPILATION, draw_like, relative_error

TRANSFORMATIONS = {
    "jit": "the value, compiled",
    "vmap": "the value at three sets of arguments",
    "grad": "the gradient of a loss, by every floating argument",
    "vmap(grad)": "three gradients at once",
    "grad(grad)": "the gradient of the gradient along a direction",
    "jvp(grad)": "forward over reverse: the Hessian times a direction",
    "hessian": "`jax.hessian` by the smallest argument",
    "scan": "the gradient through `lax.scan` over three sets of arguments",
    "checkpoint": "the gradient through `jax.checkpoint`",
    "shard_map": (
        "value and gradients with `check_vma=True`, examples sharded, parameters "
        "and keys replicated"
    ),
    "sharded jit": "value and gradients under `jit` with the examples sharded",
    "explicit axes": (
        "the same on a mesh whose axis is `AxisType.Explicit`, as `jax.make_mesh` "
        "makes it; each gradient sharded as its argument"
    ),
    "bfloat16": (
        "value and gradients, against float64: to 1e-2, or twice the twin's error"
    ),
    "float16": (
        "value and gradients, against float64: to 2e-3, or twice the twin's error"
    ),
    "float64": "value and gradients, to 1e-12",
    "jvp": "plain forward mode",
}
"""Name -> what is evaluated."""

WORKS = "works"

REASONS = {
    "reverse only": (
        "JAX allows no forward mode over a `jax.custom_vjp`. Take the twin of the same "
        "name in `kernels.autodiff`, or forward over reverse, which works."
    ),
}
"""Entries of a cell other than "works", each with its explanation."""

# Relative to the largest entry of a result.
_TOLERANCE = 1e-10
_ROUNDED = {"bfloat16": 1e-2, "float16": 2e-3, "float64": 1e-12}


def first_cases() -> dict[str, Case]:
    """Returns the rows' cases: each kernel's first in the table, in the table's order.

    A kernel that ends in an activation on request has a second row for that form.
    """
    first: dict[str, Case] = {}
    activated: dict[str, Case] = {}
    for case in CASES:
        first.setdefault(case.kernel, case)
        if "activation" in case.options and not case.has_corners:
            activated.setdefault(f"{case.kernel}, activated", case)
    shown = {str(case) for case in first.values()}
    return first | {
        label: case for label, case in activated.items() if str(case) not in shown
    }


def try_transformations(
    case: Case,
    fn: Callable[..., Any] | None = None,
    devices: Sequence[Any] | None = None,
) -> dict[str, str]:
    """Evaluates a kernel under every transformation and compares with its twin.

    Args:
      case: Says which kernel, at which arguments.
      fn: What to evaluate in the kernel's place. Default: the kernel.
      devices: What the sharded columns run on. Default: all devices.

    Returns:
      Transformation -> "works", a key of `REASONS`, or a description of what went
      wrong: the error, or how far off the numbers are.
    """
    fn = getattr(kernels, case.kernel) if fn is None else fn
    twin = getattr(kernels.autodiff, case.kernel)
    devices = jax.devices() if devices is None else devices
    mesh = jax.make_mesh(
        (len(devices),), ("batch",), devices=devices, axis_types=(AxisType.Auto,)
    )
    with jax.enable_x64(True):
        computations = _one_device(case) | _low_precision(case) | _sharded(case, mesh)
        # Plain forward mode may fail only when its program is lowered, and a program
        # has one mesh: these have programs of their own.
        alone = {"jvp": None, "explicit axes": _with_explicit_axes(mesh)}
        together = {name: c for name, c in computations.items() if name not in alone}
        results = _run(together, fn)
        for name, its_mesh in alone.items():
            results |= _run({name: computations[name]}, fn, its_mesh)
        cells = {
            name: _reason(result)
            for name, result in results.items()
            if isinstance(result, Exception)
        }
        compared = {
            name: (reference, reference, arguments)
            for name, (_, reference, arguments) in computations.items()
            if name not in cells
        }
        for name, expected in _run(compared, twin).items():
            if isinstance(expected, Exception):
                raise expected
            tolerance = _ROUNDED.get(name, _TOLERANCE)
            if name in _ROUNDED:
                # Longer chains round more often: the twin's own error is allowed twice.
                rounded, expected = expected
                tolerance = max(tolerance, 2 * _worst_error(rounded, expected))
            cells[name] = _compare(results[name], expected, tolerance)
    return {name: cells[name] for name in TRANSFORMATIONS}


def render_page(rows: Mapping[str, Mapping[str, str]], command: str) -> str:
    """Renders the table as a page in Markdown.

    Args:
      rows: Kernel -> what `try_transformations` returned for it.
      command: What regenerates the page.

    Returns:
      The page: the table, its columns, and each reason that occurs in it.
    """
    lines = [
        "# Kernels under JAX's transformations",
        "",
        "Each cell was made by running the kernel's first case of",
        "`cnn_jax/analysis/cases/` under the transformation and comparing with the",
        'lax twin under the same: "works" means that the numbers agree. Generated by',
        "",
        f"    {command}",
        "",
        "and run again by the tests, which fail where this page differs.",
        "",
        _line("kernel", TRANSFORMATIONS),
        _line("---", ["---"] * len(TRANSFORMATIONS)),
        *(render_row(kernel, row) for kernel, row in rows.items()),
        "",
        "What is compared, in float64 to a relative 1e-10 where nothing else is said:",
        "",
        *(f"- {name}: {meaning}." for name, meaning in TRANSFORMATIONS.items()),
        "",
        "Where it does not work:",
        "",
    ]
    found = {cell for row in rows.values() for cell in row.values()}
    lines += [f"- {name}: {why}" for name, why in REASONS.items() if name in found]
    return "\n".join(lines) + "\n"


def render_row(kernel: str, row: Mapping[str, str]) -> str:
    """Returns one kernel's line of the table in Markdown."""
    return _line(f"`{kernel}`", [row[name] for name in TRANSFORMATIONS])


def _line(first, cells):
    return "| " + " | ".join([first, *cells]) + " |"


# Each computation is a triple: what the kernel does, what the twin does for comparison,
# and their arguments.


def _one_device(case):
    rest = case.draw(0)
    # Three sets of arguments, stacked; keys and labels are the same for all.
    sets = [_floating(case.draw(seed)) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *sets)
    direction = draw_like(sets[0], 1)
    smallest = min(sets[0], key=lambda name: sets[0][name].size)

    def of_value(transform):
        return lambda fn, arguments: transform(
            lambda floating: case.apply(fn, {**rest, **floating})
        )(arguments)

    def of_loss(transform):
        return of_value(lambda value: transform(lambda args: _loss(value(args))))

    def slope(loss):
        def along_direction(arguments):
            products = jax.tree.map(jnp.vdot, jax.grad(loss)(arguments), direction)
            return sum(jax.tree.leaves(products))

        return along_direction

    def scanned(loss):
        def total(arguments):
            def step(sum_so_far, one):
                return sum_so_far + loss(one), None

            return jax.lax.scan(step, jnp.zeros(()), arguments)[0]

        return total

    def hessian(loss):
        return lambda arguments: jax.hessian(
            lambda argument: loss({**arguments, smallest: argument})
        )(arguments[smallest])

    def along(fn):
        return lambda arguments: jax.jvp(fn, (arguments,), (direction,))

    computations = {
        "jit": (of_value(lambda value: value), sets[0]),
        "vmap": (of_value(jax.vmap), stacked),
        "grad": (of_loss(jax.grad), sets[0]),
        "vmap(grad)": (of_loss(lambda loss: jax.vmap(jax.grad(loss))), stacked),
        "grad(grad)": (of_loss(lambda loss: jax.grad(slope(loss))), sets[0]),
        "jvp(grad)": (of_loss(lambda loss: along(jax.grad(loss))), sets[0]),
        "hessian": (of_loss(hessian), sets[0]),
        "scan": (of_loss(lambda loss: jax.grad(scanned(loss))), stacked),
        "checkpoint": (
            of_loss(lambda loss: jax.grad(jax.checkpoint(loss))),
            sets[0],
        ),
        "jvp": (of_value(along), sets[0]),
    }
    return {name: (run, run, args) for name, (run, args) in computations.items()}


def _low_precision(case):
    def evaluate(fn, arguments):
        floating = _floating(arguments)
        value, pull_back = jax.vjp(
            lambda floating: case.apply(fn, {**arguments, **floating}), floating
        )
        (gradients,) = pull_back(jax.tree.map(_exact_cotangent, value))
        for name, gradient in gradients.items():
            if gradient.dtype != floating[name].dtype:
                raise TypeError(f"d{name} is {gradient.dtype}")
        return _as_float64((value, gradients))

    def rounded_and_in_float64(fn, arguments):
        wide = {**arguments, **_as_float64(_floating(arguments))}
        return evaluate(fn, arguments), evaluate(fn, wide)

    return {
        name: (evaluate, rounded_and_in_float64, case.draw(0, jnp.dtype(name)))
        for name in _ROUNDED
    }


def _sharded(case, mesh):
    large = case.with_batch(mesh.size)
    arguments = large.draw(0)
    by_batch, replicated = PartitionSpec("batch"), PartitionSpec()
    specs = {
        name: by_batch if case.has_examples(name, array) else replicated
        for name, array in arguments.items()
    }

    def on_shards(fn, arguments):
        def each(arguments):
            return jax.tree.map(lambda leaf: leaf[None], case.apply(fn, arguments))

        def gradients_of_each(arguments):
            # A replicated parameter's gradient arrives summed over the devices.
            return _gradients(each, arguments)

        shard = functools.partial(
            jax.shard_map, mesh=mesh, in_specs=(specs,), check_vma=True
        )
        mapped = shard(each, out_specs=by_batch)
        inside = shard(gradients_of_each, out_specs=_floating(arguments, specs))
        return mapped(arguments), _gradients(mapped, arguments), inside(arguments)

    def on_pieces(fn, arguments):
        axes = {name: 0 if specs[name] == by_batch else None for name in arguments}

        def every(arguments):
            pieces = {
                name: array.reshape(mesh.size, -1, *array.shape[1:])
                if axes[name] == 0
                else array
                for name, array in arguments.items()
            }
            return jax.vmap(lambda a: case.apply(fn, a), in_axes=(axes,))(pieces)

        gradients = _gradients(every, arguments)
        return every(arguments), gradients, gradients

    def whole(fn, arguments):
        def value(arguments):
            return large.apply(fn, arguments)

        return value(arguments), _gradients(value, arguments)

    def compiled(fn, arguments):
        shardings = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
        run = jax.jit(functools.partial(whole, fn), in_shardings=(shardings,))
        return run(arguments)

    def on_explicit_axes(fn, arguments):
        arguments = jax.sharding.reshard(arguments, specs)
        value, gradients = whole(fn, arguments)
        for name, gradient in gradients.items():
            found, expected = (
                jax.typeof(array).sharding.spec for array in (gradient, arguments[name])
            )
            if found != expected:
                raise TypeError(f"d{name} is sharded as {found}, {name} as {expected}")
        return value, gradients

    return {
        "shard_map": (on_shards, on_pieces, arguments),
        "sharded jit": (compiled, whole, arguments),
        "explicit axes": (on_explicit_axes, whole, arguments),
    }


def _with_explicit_axes(mesh):
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Explicit,))


def _run(computations, fn, mesh=None):
    """Returns name -> results of its first function, or the exception it raised."""

    # One program for all: compiling takes nearly all of the time.
    def everything(arguments):
        return {
            name: run(fn, arguments[name]) for name, (run, _, _) in computations.items()
        }

    arguments = {name: arguments for name, (_, _, arguments) in computations.items()}
    try:
        with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
            return jax.jit(everything, compiler_options=FAST_COMPILATION)(arguments)
    except Exception as error:
        if len(computations) == 1:
            return dict.fromkeys(computations, error)
    results: dict[str, Any] = {}
    for name, computation in computations.items():
        results |= _run({name: computation}, fn)
    return results


def _floating(arguments, values=None):
    """Returns the floating arguments, or what `values` holds under their names."""
    values = arguments if values is None else values
    return {name: values[name] for name, a in arguments.items() if is_floating(a)}


def _loss(value):
    """Returns a sum of sines, which gives linear kernels a second derivative."""
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(value))


def _gradients(fn, arguments):
    return jax.grad(lambda floating: _loss(fn({**arguments, **floating})))(
        _floating(arguments)
    )


def _exact_cotangent(leaf):
    """Draws multiples of 1/8, which all dtypes represent exactly."""
    drawn = np.random.default_rng(0).integers(-16, 17, leaf.shape) / 8
    return jnp.asarray(drawn, leaf.dtype)


def _as_float64(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)


def _compare(actual, expected, tolerance):
    if jax.tree.structure(actual) != jax.tree.structure(expected):
        return "another structure than the twin's"
    error = _worst_error(actual, expected)
    return WORKS if error <= tolerance else f"off by {error:.1e}"


def _worst_error(actual, expected):
    return max(jax.tree.leaves(jax.tree.map(relative_error, actual, expected)))


def _reason(error):
    message = str(error).partition("\n")[0]
    if "forward-mode" in message and "custom_vjp" in message:
        return "reverse only"
    return f"{type(error).__name__}: {message}"
