"""Gradient check: every kernel and gradient compared with JAX's own autodiff.

`run_gradcheck` evaluates each row of `analysis.cases` in float64 twice, by the kernel
and by its twin in `kernels.autodiff`, pulls one random cotangent back through both, and
reports the largest deviation of each output and of each gradient.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import kernels as own_kernels
from cnn_jax.analysis.cases import CASES, Case, is_floating
from cnn_jax.seeds import check_seed

TOLERANCE = 1e-12
"""The largest deviation that passes, relative to the reference's largest entry.

Float64 resolves 2.2e-16, and the longest sums of the table have some hundred terms."""

FAST_COMPILATION = {"xla_backend_optimization_level": 0}
"""Compiler options for programs that run once, on few numbers."""


@dataclasses.dataclass(frozen=True)
class GradcheckRow:
    """The worst deviation of one output or gradient over all cases of its kernel.

    Attributes:
      kernel: The kernel's name.
      argument: "output", or "d" and the name of the argument: "dx", "dw", "dscale".
      num_cases: How many cases were compared.
      worst_relative_error: The largest deviation, relative to the largest entry of the
        reference; infinite where shapes or dtypes differ or there is a NaN.
      tolerance: The largest error that passes.
      passed: Whether the error is within the tolerance.
    """

    kernel: str
    argument: str
    num_cases: int
    worst_relative_error: float
    tolerance: float
    passed: bool


def run_gradcheck(
    kernels: object | Mapping[str, Callable[..., Any]] | None = None, seed: int = 0
) -> list[GradcheckRow]:
    """Compares kernels and their gradients with `jax.vjp` of the twins, in float64.

    Args:
      kernels: Where the kernels are found by name: a module, another namespace or a
        mapping. A mapping may hold only some of them. Default: `cnn_jax.kernels`.
      seed: Seeds the arguments and cotangents.

    Returns:
      One row for each kernel's output and each of its gradients.

    Raises:
      ValueError: If `kernels` holds none of the kernels in the table, or the seed is
        none.
    """
    seed = check_seed(seed)
    implementations = _by_name(own_kernels if kernels is None else kernels)
    errors: dict[tuple[str, str], list[float]] = {}
    with jax.enable_x64(True), jax.default_device(_float64_device()):
        for case in CASES:
            if case.kernel not in implementations:
                continue
            twin = getattr(own_kernels.autodiff, case.kernel)
            deviations = _deviations(case, implementations[case.kernel], twin, seed)
            for argument, error in deviations.items():
                errors.setdefault((case.kernel, argument), []).append(error)
    return [
        GradcheckRow(
            kernel=kernel,
            argument=argument,
            num_cases=len(found),
            worst_relative_error=max(found),
            tolerance=TOLERANCE,
            passed=max(found) <= TOLERANCE,
        )
        for (kernel, argument), found in errors.items()
    ]


def relative_error(
    actual: jax.Array | np.ndarray, reference: jax.Array | np.ndarray
) -> float:
    """Returns max |actual - reference| / max |reference|.

    Element by element the quotient would be large for sums that cancel to nearly 0,
    where any rounding is large in proportion.

    Args:
      actual: The value under test.
      reference: The expected value.

    Returns:
      0 for equal arrays, infinite entries included; infinity where shapes or dtypes
      differ, where there is a NaN, or where the reference is 0 and `actual` is not.
    """
    if actual.shape != reference.shape or actual.dtype != reference.dtype:
        return math.inf
    actual, reference = np.asarray(actual), np.asarray(reference)
    differs = actual != reference  # NaN differs from itself
    if not differs.any():
        return 0.0
    size = np.abs(
        reference, where=np.isfinite(reference), out=np.zeros(reference.shape)
    )
    deviation = np.abs(actual[differs] - reference[differs]).max()
    if not np.isfinite(deviation) or size.max() == 0.0:
        return math.inf
    return float(deviation / size.max())


def pull_back(
    fn: Callable[..., Any],
    case: Case,
    arguments: Mapping[str, jax.Array],
    cotangent: Any,
) -> tuple[object, dict[str, jax.Array]]:
    """Evaluates `fn` on a case and pulls a cotangent back.

    Args:
      fn: A kernel or its twin.
      case: Supplies the order of the arguments and the options.
      arguments: name -> array.
      cotangent: Like fn's output.

    Returns:
      The output, and name -> gradient for every floating argument.
    """
    floating = {name: a for name, a in arguments.items() if is_floating(a)}
    value, vjp_fn = jax.vjp(
        lambda floating: case.apply(fn, {**arguments, **floating}), floating
    )
    return value, vjp_fn(cotangent)[0]


def draw_like(tree: Any, seed: int) -> Any:
    """Draws a standard normal array for every leaf (arrays or their shapes)."""
    generator = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(generator.standard_normal(leaf.shape), leaf.dtype),
        tree,
    )


def _deviations(case: Case, kernel, twin, seed: int) -> dict[str, float]:
    arguments = case.draw(seed)
    output, own_output = (
        jax.eval_shape(lambda arguments, fn=fn: case.apply(fn, arguments), arguments)
        for fn in (twin, kernel)
    )
    gradient_names = [name for name, a in arguments.items() if is_floating(a)]
    if not _same_types(output, own_output):
        return {"output": math.inf} | {f"d{name}": math.inf for name in gradient_names}
    # One program for both, hardly optimised: compiling takes nearly all of the time.
    both = jax.jit(
        lambda arguments, cotangent: [
            pull_back(fn, case, arguments, cotangent) for fn in (kernel, twin)
        ],
        compiler_options=FAST_COMPILATION,
    )
    (value, gradients), (twin_value, twin_gradients) = both(
        arguments, draw_like(output, seed)
    )
    errors = map(relative_error, jax.tree.leaves(value), jax.tree.leaves(twin_value))
    return {"output": max(errors)} | {
        f"d{name}": relative_error(gradients[name], twin_gradients[name])
        for name in gradient_names
    }


def _same_types(left, right) -> bool:
    left, right = (
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
        for tree in (left, right)
    )
    return left == right


def _float64_device() -> jax.Device:
    """Returns the default device, or the host if that has no float64."""
    on_tpu = jax.default_backend() == "tpu"
    return jax.local_devices(backend="cpu" if on_tpu else None)[0]


def _by_name(kernels) -> dict[str, Callable[..., Any]]:
    names = dict.fromkeys(case.kernel for case in CASES)
    if isinstance(kernels, Mapping):
        found = {name: kernels[name] for name in names if name in kernels}
    else:
        found = {
            name: getattr(kernels, name) for name in names if hasattr(kernels, name)
        }
    if not found:
        raise ValueError(
            f"kernels: got {kernels!r}, which holds none of {', '.join(names)}."
        )
    return found
