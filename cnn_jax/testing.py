"""Assertions about gradients, for your own test suite.

    with jax.enable_x64(True):
        assert_vjp_matches(my_conv, autodiff.conv, x, w, b)

compares a function with a hand-written VJP against a reference that JAX differentiates.
Why not `chex.assert_numerical_grads`: it multiplies its absolute tolerance by the size
of the input, and lets gradients pass that are 5 % too large.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["assert_adjoint", "assert_vjp_matches"]


def assert_vjp_matches(
    fn: Callable[..., Any],
    reference: Callable[..., Any],
    *args: Any,
    rtol: float = 1e-12,
    atol: float = 0.0,
    key: jax.Array | None = None,
) -> None:
    """Asserts that two functions have the same outputs and the same VJP.

    Both are evaluated plainly, and once under `jax.vjp` with one random cotangent. A
    leaf passes if no entry deviates by more than `atol + rtol * max |reference leaf|`:
    the scale is the leaf's and not the entry's, since an entry that is a cancelling sum
    has no better precision than its terms. NaN never passes; infinities must agree.

    The default `rtol` is meant for float64 (`jax.enable_x64(True)`). In float32 about
    1e-5 is reasonable, in bfloat16 2e-2.

    Args:
      fn: The function under test.
      reference: What it should compute, differentiable by JAX.
      *args: Positional arguments of both: any pytrees. Gradients are compared for the
        floating-point (or complex) arrays in them; integers, booleans, random keys
        and everything that is not an array are passed on as they are.
      rtol: The tolerance, relative to the largest entry of the reference's leaf.
      atol: Added to the tolerance. Needed where the true gradient is 0 and the
        reference has only rounding errors, as a bias has in front of a batch norm.
      key: Draws the cotangent. Default: `jax.random.key(0)`.

    Raises:
      AssertionError: If an output or a gradient differs; the message names the
        argument and says by how much.
      ValueError: If no argument holds a floating-point array.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(args)
    names = _argument_names((reference, fn), len(args))
    labels = [names[path[0].idx] + jax.tree_util.keystr(path[1:]) for path, _ in leaves]
    values = [leaf for _, leaf in leaves]
    varying = [index for index, leaf in enumerate(values) if _is_inexact(leaf)]
    if not varying:
        raise ValueError(
            "assert_vjp_matches: got no floating-point array among the arguments, "
            "expected at least one to differentiate by; convert Python numbers with "
            "jnp.asarray."
        )

    def with_varying(function):
        def call(*chosen):
            filled = list(values)
            for index, value in zip(varying, chosen, strict=True):
                filled[index] = value
            outputs = function(*jax.tree_util.tree_unflatten(structure, filled))
            # jax.vjp wants inexact outputs only; the others are compared as they are.
            flat, tree = jax.tree_util.tree_flatten(outputs)
            inexact = [leaf for leaf in flat if _is_inexact(leaf)]
            exact = [leaf for leaf in flat if not _is_inexact(leaf)]
            structures.append(tree)
            return inexact, exact

        return call

    structures: list[Any] = []
    chosen = [jnp.asarray(values[index]) for index in varying]
    plain, plain_exact = with_varying(fn)(*chosen)
    forward, vjp_fn, exact = jax.vjp(with_varying(fn), *chosen, has_aux=True)
    wanted, reference_vjp_fn, wanted_exact = jax.vjp(
        with_varying(reference), *chosen, has_aux=True
    )
    if len(set(structures)) > 1:
        raise AssertionError(
            f"outputs: got structure {structures[0]} of fn, expected the reference's "
            f"{structures[-1]}."
        )
    tolerance = {"rtol": rtol, "atol": atol}
    _assert_leaves_close("output", plain, wanted, **tolerance)
    _assert_leaves_close("output under jax.vjp", forward, wanted, **tolerance)
    chex.assert_trees_all_equal(plain_exact, wanted_exact)
    chex.assert_trees_all_equal(exact, wanted_exact)

    cotangent = _draw_like(wanted, jax.random.key(0) if key is None else key)
    gradients, wanted_gradients = vjp_fn(cotangent), reference_vjp_fn(cotangent)
    problems = []
    for index, got, expected in zip(varying, gradients, wanted_gradients, strict=True):
        try:
            _assert_close(f"gradient of {labels[index]}", got, expected, **tolerance)
        except AssertionError as error:
            problems.append(str(error))
    if problems:
        raise AssertionError("\n".join(problems))


def assert_adjoint(
    linear_fn: Callable[..., Any],
    transpose_fn: Callable[..., Any],
    x: Any,
    *,
    rtol: float = 1e-12,
    key: jax.Array | None = None,
) -> None:
    """Asserts that `<A x, y> = <x, A* y>` for a random y: that A* transposes A.

    The identity needs no reference: it ties a linear map's backward pass to its own
    forward pass. Pass the VJP as `transpose_fn`:

        assert_adjoint(conv_fn, lambda y: jax.vjp(conv_fn, x)[1](y)[0], x)

    Args:
      linear_fn: A, a linear function of one pytree of floating-point arrays.
      transpose_fn: A*, from trees like A's output to trees like x.
      x: The point; any pytree of arrays.
      rtol: The tolerance, relative to `|A x| |y| + |x| |A* y|`, the largest that the
        products can be.
      key: Draws y. Default: `jax.random.key(0)`.

    Raises:
      AssertionError: If the two products differ, or a value is not finite.
    """
    image = linear_fn(x)
    y = _draw_like(image, jax.random.key(0) if key is None else key)
    back = transpose_fn(y)
    if _shapes(back) != _shapes(x):
        raise AssertionError(f"A* y: got {_shapes(back)}, expected {_shapes(x)}.")
    forward, backward = _inner(image, y), _inner(x, back)
    scale = _norm(image) * _norm(y) + _norm(x) * _norm(back)
    deviation = abs(forward - backward)
    if not deviation <= rtol * scale:  # NaN fails this way round
        raise AssertionError(
            f"<A x, y> is {forward:.17g} and <x, A* y> is {backward:.17g}: they differ "
            f"by {deviation:.3g}, {_ratio(deviation, scale):.3g} of the largest value "
            f"possible, expected at most {rtol:.3g}."
        )


def _assert_leaves_close(label, actual, reference, *, rtol, atol):
    for number, (got, wanted) in enumerate(zip(actual, reference, strict=True)):
        name = label if len(reference) == 1 else f"{label} [{number}]"
        _assert_close(name, got, wanted, rtol=rtol, atol=atol)


def _assert_close(label, actual, reference, *, rtol, atol):
    """Compares one leaf, with a tolerance relative to its largest entry."""
    if (actual.shape, actual.dtype) != (reference.shape, reference.dtype):
        raise AssertionError(
            f"{label}: got {actual.dtype}{list(actual.shape)}, expected "
            f"{reference.dtype}{list(reference.shape)}."
        )
    got, wanted = _widen(actual), _widen(reference)
    for owner, array in (("fn", got), ("the reference", wanted)):
        if np.isnan(array).any():
            raise AssertionError(f"{label}: {owner} has NaN.")
    finite = np.abs(wanted[np.isfinite(wanted)])
    size = finite.max(initial=0.0)
    differs = got != wanted
    deviation = np.abs(got[differs] - wanted[differs]).max(initial=0.0)
    resolution = float(jnp.finfo(reference.dtype).eps)
    hint = (
        f" {reference.dtype} resolves {resolution:.2g}: pass a larger rtol, or use "
        "float64 under jax.enable_x64(True)."
        if rtol < resolution
        else ""
    )
    chex.assert_trees_all_close(
        got,
        wanted,
        rtol=0.0,
        atol=atol + rtol * size,
        custom_message=(
            f"{label}: off by {_ratio(deviation, size):.3g} of the reference's largest "
            f"entry ({deviation:.3g} of {size:.3g}), expected at most {rtol:.3g}."
            f"{hint}"
        ),
    )


def _draw_like(tree, key):
    leaves, structure = jax.tree_util.tree_flatten(tree)
    keys = jax.random.split(key, max(len(leaves), 1))
    drawn = (
        jax.random.normal(key, leaf.shape, leaf.dtype)
        for key, leaf in zip(keys, leaves, strict=False)
    )
    return jax.tree.unflatten(structure, drawn)


def _argument_names(functions: tuple[Callable[..., Any], ...], count: int) -> list[str]:
    """Names arguments as a signature does (the last one's wins), or by number alone."""
    names = [f"argument {number}" for number in range(count)]
    for function in functions:
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # some builtins have no signature
            continue
        for number, parameter in zip(range(count), parameters, strict=False):
            if parameter.kind is parameter.VAR_POSITIONAL:
                break
            names[number] = f"argument {number} ({parameter.name})"
    return names


def _is_inexact(leaf) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(
        leaf.dtype, jnp.inexact
    )


def _widen(leaf) -> np.ndarray:
    wide = np.complex128 if jnp.iscomplexobj(leaf) else np.float64
    return np.asarray(leaf).astype(wide)


def _shapes(tree):
    return jax.tree.map(np.shape, tree)


def _inner(left, right) -> float:
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return float(sum(np.sum(_widen(a) * _widen(b)) for a, b in pairs))


def _norm(tree) -> float:
    return float(np.sqrt(_inner(tree, tree)))


def _ratio(deviation: float, size: float) -> float:
    if deviation == 0.0:
        return 0.0
    return float(deviation / size) if size > 0.0 else float("inf")
