"""Proof by comparison: every kernel and gradient against JAX's own autodiff.

`CASES` is a table: a row names a kernel, says how to draw its arguments and which
options to pass. `run_gradcheck` evaluates each row in float64 twice, by the kernel and
by its twin in `kernels.autodiff`, pulls one random cotangent back through both, and
reports the largest deviation of each output and of each gradient.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import kernels as own_kernels
from cnn_jax.geometry import Window

TOLERANCE = 1e-12
"""The largest deviation that passes, relative to the reference's largest entry.

Float64 resolves 2.2e-16, and the longest sums of the table have some hundred terms."""

FAST_COMPILATION = {"xla_backend_optimization_level": 0}
"""Compiler options for programs that run once, on few numbers."""

Draw = Callable[[np.random.Generator], object]


def normal(*shape: int) -> Draw:
    """Draws standard normal numbers."""
    return lambda generator: generator.standard_normal(shape)


def positive(*shape: int) -> Draw:
    """Draws numbers between 0.5 and 2, such as variances."""
    return lambda generator: generator.uniform(0.5, 2.0, shape)


def spaced(*shape: int) -> Draw:
    """Draws distinct numbers on a grid around, but without, 0.

    No small change of them brings a maximum or a sign to its corner.
    """

    def draw(generator):
        count = math.prod(shape)
        grid = (np.arange(count) - count // 2 + 0.5) / max(count / 4, 1.0)
        return generator.permutation(grid).reshape(shape)

    return draw


def tied(*shape: int) -> Draw:
    """Draws from 0, 1 and 2, so that most windows hold their maximum twice."""
    return lambda generator: generator.integers(0, 3, shape).astype(np.float64)


def classes(count: int, *shape: int) -> Draw:
    """Draws class numbers below `count`."""
    return lambda generator: generator.integers(0, count, shape).astype(np.int32)


def random_key() -> Draw:
    """Draws a JAX random key."""
    return lambda generator: jax.random.key(int(generator.integers(1 << 31)))


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table: a kernel, how to draw its arguments, and its options.

    Attributes:
      kernel: The kernel's name, the same in `kernels` and `kernels.autodiff`.
      label: What distinguishes the row from the kernel's other rows.
      arguments: The positional arguments: name -> draw, in order.
      options: Keyword arguments.
      has_corners: Whether a drawn value may lie where there is no derivative, so that
        finite differences say nothing.
    """

    kernel: str
    label: str
    arguments: Mapping[str, Draw]
    options: Mapping[str, object] = dataclasses.field(default_factory=dict)
    has_corners: bool = False

    def __str__(self) -> str:
        """Returns the row's name."""
        return f"{self.kernel}-{self.label}"

    def draw(self, seed: int, dtype=np.float64) -> dict[str, jax.Array]:
        """Draws the arguments, the floating ones in `dtype`.

        Args:
          seed: Seeds the draw; the numbers depend on it and on the case alone.
          dtype: A floating dtype. float64 needs `jax.enable_x64(True)`.

        Returns:
          name -> array.
        """
        generator = np.random.default_rng([seed, *str(self).encode()])
        drawn = {name: draw(generator) for name, draw in self.arguments.items()}
        return {
            name: jnp.asarray(value, dtype) if _is_floating(value) else value
            for name, value in drawn.items()
        }

    def apply(self, fn: Callable, arguments: Mapping[str, jax.Array]):
        """Calls `fn` with these arguments, in the kernel's order, and the options."""
        # JAX sorts the keys of a dict that passes through a transformation.
        return fn(*(arguments[name] for name in self.arguments), **self.options)


# Name -> (input, filter, options). Channels differ so that no mix-up can cancel.
CONVOLUTIONS = {
    "same": ((2, 6, 7, 3), (3, 3, 3, 4), {}),
    "valid": ((2, 6, 7, 3), (3, 2, 3, 4), {"padding": "VALID"}),
    "1x1": ((2, 5, 6, 4), (1, 1, 4, 6), {}),
    "1x1 stride 2": ((2, 5, 6, 4), (1, 1, 4, 6), {"strides": 2}),
    "stride 2, same, even": ((2, 8, 6, 3), (3, 3, 3, 4), {"strides": 2}),
    "stride 2, same, odd": ((2, 7, 9, 3), (5, 3, 3, 4), {"strides": 2}),
    "strides 2 and 3, explicit": (
        (2, 9, 10, 2),
        (2, 4, 2, 3),
        {"strides": (2, 3), "padding": ((1, 2), (0, 3))},
    ),
    "stride beyond the window": ((2, 9, 8, 2), (2, 1, 2, 3), {"strides": 3}),
    "padding beyond the window": ((2, 4, 3, 2), (2, 2, 2, 3), {"padding": 3}),
    "cropped": ((2, 7, 8, 2), (3, 3, 2, 3), {"padding": ((-1, 0), (1, -2))}),
    "dilated": (
        (2, 9, 7, 2),
        (3, 2, 2, 3),
        {"dilation": (2, 3), "padding": "VALID"},
    ),
    "dilated, stride 2, same": (
        (2, 9, 8, 2),
        (3, 3, 2, 3),
        {"dilation": 2, "strides": 2},
    ),
    "2 groups, stride 2": (
        (2, 7, 6, 4),
        (3, 3, 2, 6),
        {"groups": 2, "strides": 2, "padding": 1},
    ),
    "depthwise": ((2, 6, 5, 4), (3, 3, 1, 4), {"groups": 4}),
    "depthwise twofold, stride 2": (
        (2, 7, 6, 3),
        (4, 3, 1, 6),
        {"groups": 3, "strides": 2},
    ),
    "1-d, stride 2": ((2, 9, 4), (3, 4, 6), {"strides": 2}),
    "1-d, dilated, groups": (
        (2, 11, 4),
        (4, 2, 6),
        {"dilation": 2, "groups": 2, "padding": "VALID"},
    ),
    "3-d": ((2, 4, 5, 4, 2), (2, 3, 2, 2, 3), {"strides": (1, 2, 1)}),
    "3-d, groups": (
        (1, 4, 5, 3, 4),
        (3, 2, 1, 2, 2),
        {"groups": 2, "padding": (1, 0, (0, 2)), "dilation": (1, 2, 1)},
    ),
}

# Name -> (input, options), for both poolings.
POOLINGS = {
    "2x2": ((2, 6, 4, 3), {"window": 2}),
    "3x3 stride 2, same": (
        (2, 7, 6, 3),
        {"window": 3, "strides": 2, "padding": "SAME"},
    ),
    "overlapping": ((2, 6, 5, 2), {"window": (3, 2), "strides": 1}),
    "padding 1": ((2, 6, 7, 2), {"window": 3, "strides": 2, "padding": 1}),
    "explicit": (
        (2, 5, 6, 2),
        {"window": (2, 3), "strides": (3, 2), "padding": ((1, 0), (0, 2))},
    ),
    "cropped": ((2, 7, 6, 2), {"window": 2, "padding": ((-1, 0), (0, -2))}),
    "windows in the padding": (
        (2, 3, 4, 2),
        {"window": 2, "strides": 1, "padding": 3},
    ),
    "1-d": ((2, 9, 3), {"window": 3, "strides": 2}),
    "3-d": ((2, 4, 5, 3, 2), {"window": (2, 3, 2), "strides": (2, 1, 1)}),
}


def _convolution_cases() -> list[Case]:
    cases = []
    for label, (x, w, options) in CONVOLUTIONS.items():
        geometry = {name: options[name] for name in options if name != "groups"}
        geometry.setdefault("padding", "SAME")
        window = Window.resolve(x[1:-1], w[:-2], **geometry)
        y = (x[0], *window.output_sizes, w[-1])
        arguments = {"x": normal(*x), "w": normal(*w), "b": normal(w[-1])}
        cases += [
            Case("conv", label, arguments, options),
            Case(
                "conv_input_grad",
                label,
                {"dy": normal(*y), "w": normal(*w)},
                {"input_shape": x, **options},
            ),
            Case(
                "conv_filter_grad",
                label,
                {"x": normal(*x), "dy": normal(*y)},
                {"filter_shape": w, **options},
            ),
        ]
    no_bias = {"x": normal(2, 5, 5, 2), "w": normal(3, 3, 2, 3)}
    return [
        *cases,
        Case("conv", "no bias", no_bias),
        Case("conv_bias_grad", "2-d", {"dy": normal(3, 4, 5, 2)}),
        Case("conv_bias_grad", "1-d", {"dy": normal(3, 4, 2)}),
    ]


def _pooling_cases() -> list[Case]:
    cases = []
    for label, (x, options) in POOLINGS.items():
        y = _pooled_shape(x, options)
        cases += [
            Case("max_pool", label, {"x": spaced(*x)}, options),
            Case("max_pool_grad", label, {"x": spaced(*x), "dy": normal(*y)}, options),
            Case("avg_pool", label, {"x": normal(*x)}, options),
            Case(
                "avg_pool_grad",
                label,
                {"dy": normal(*y)},
                {"input_shape": x, **options},
            ),
        ]
    x, padded = (2, 5, 6, 2), {"window": 3, "strides": 2, "padding": "SAME"}
    inside = {**padded, "count_include_pad": False}
    dilated = {"window": (3, 2), "strides": 2, "padding": 2, "dilation": (2, 3)}
    dy, dilated_dy = _pooled_shape(x, padded), _pooled_shape(x, dilated)
    return [
        *cases,
        Case("avg_pool", "padding not counted", {"x": normal(*x)}, inside),
        Case(
            "avg_pool_grad",
            "padding not counted",
            {"dy": normal(*dy)},
            {"input_shape": x, **inside},
        ),
        Case("max_pool", "dilated", {"x": spaced(*x)}, dilated),
        Case(
            "max_pool_grad",
            "dilated",
            {"x": spaced(*x), "dy": normal(*dilated_dy)},
            dilated,
        ),
        Case("max_pool", "ties", {"x": tied(*x)}, padded, has_corners=True),
        Case(
            "max_pool_grad",
            "ties",
            {"x": tied(*x), "dy": normal(*dy)},
            padded,
            has_corners=True,
        ),
        Case("global_avg_pool", "2-d", {"x": normal(2, 3, 4, 5)}),
        Case("global_avg_pool", "1-d", {"x": normal(2, 3, 5)}),
        Case("global_avg_pool", "3-d", {"x": normal(2, 3, 2, 2, 5)}),
    ]


def _pooled_shape(shape: Sequence[int], options: Mapping) -> tuple[int, ...]:
    options = dict(options)
    size = options.pop("window")
    window = Window.resolve(shape[1:-1], size, **{"strides": size, **options})
    return (shape[0], *window.output_sizes, shape[-1])


def _channel_vectors(count: int, *names: str) -> dict[str, Draw]:
    return {
        name: positive(count) if name in ("var", "scale") else normal(count)
        for name in names
    }


def _remaining_cases() -> list[Case]:
    statistics = ("mean", "var", "scale", "bias")
    logits, labels, targets = normal(4, 5), classes(5, 4), positive(4, 5)
    smoothed = {"label_smoothing": 0.1}
    return [
        Case("dense", "2-d", {"x": normal(4, 3), "w": normal(3, 5), "b": normal(5)}),
        Case("dense", "4-d", {"x": normal(2, 3, 2, 4), "w": normal(4, 3)}),
        Case("relu", "4-d", {"x": spaced(2, 3, 3, 2)}),
        Case("relu", "corners", {"x": tied(3, 4)}, has_corners=True),
        Case("silu", "4-d", {"x": normal(2, 3, 3, 2)}),
        Case("sigmoid", "4-d", {"x": normal(2, 3, 3, 2)}),
        *(
            Case(
                "batch_norm",
                label,
                {"x": normal(*shape), **_channel_vectors(shape[-1], "scale", "bias")},
                {"epsilon": epsilon},
            )
            for label, shape, epsilon in (
                ("images", (3, 4, 3, 2), 1e-5),
                ("rows", (6, 3), 1e-3),
                ("volumes", (2, 3, 2, 2, 2), 1e-5),
            )
        ),
        *(
            Case(
                "batch_norm_inference",
                label,
                {"x": normal(*shape), **_channel_vectors(shape[-1], *statistics)},
                {"epsilon": 1e-5},
            )
            for label, shape in (("images", (2, 4, 3, 2)), ("rows", (5, 3)))
        ),
        Case(
            "dropout",
            "4-d",
            {"x": normal(3, 4, 3, 2), "key": random_key()},
            {"rate": 0.4},
        ),
        Case(
            "dropout", "rate 0", {"x": normal(3, 4), "key": random_key()}, {"rate": 0.0}
        ),
        Case(
            "stochastic_depth",
            "4-d",
            {"x": normal(8, 2, 3, 2), "key": random_key()},
            {"rate": 0.4},
        ),
        Case("softmax_cross_entropy", "classes", {"logits": logits, "labels": labels}),
        Case(
            "softmax_cross_entropy",
            "classes, smoothed",
            {"logits": normal(2, 3, 5), "labels": classes(5, 2, 3)},
            smoothed,
        ),
        # Not normalised on purpose: the gradient then depends on their sum.
        Case("softmax_cross_entropy", "targets", {"logits": logits, "labels": targets}),
        Case(
            "softmax_cross_entropy",
            "targets, smoothed",
            {"logits": logits, "labels": targets},
            smoothed,
        ),
    ]


CASES = (*_convolution_cases(), *_pooling_cases(), *_remaining_cases())
"""Every kernel, named gradients included; a new kernel is a new row."""


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
    kernels: object | Mapping[str, Callable] | None = None, seed: int = 0
) -> list[GradcheckRow]:
    """Compares kernels and their gradients with `jax.vjp` of the twins, in float64.

    Args:
      kernels: Where the kernels are found by name: a module, another namespace or a
        mapping. A mapping may hold only some of them. Default: `cnn_jax.kernels`.
      seed: Seeds the arguments and cotangents.

    Returns:
      One row for each kernel's output and each of its gradients.

    Raises:
      ValueError: If `kernels` holds none of the kernels in the table.
    """
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


def relative_error(actual: jax.Array, reference: jax.Array) -> float:
    """Returns max |actual - reference| / max |reference|.

    Element by element the quotient would punish sums that cancel to almost nothing,
    where any rounding is large in proportion.

    Args:
      actual: What is to be judged.
      reference: What it should be.

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
    fn: Callable, case: Case, arguments: Mapping[str, jax.Array], cotangent
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
    floating = {name: a for name, a in arguments.items() if _is_floating(a)}
    value, vjp_fn = jax.vjp(
        lambda floating: case.apply(fn, {**arguments, **floating}), floating
    )
    return value, vjp_fn(cotangent)[0]


def draw_like(tree, seed: int):
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
    gradient_names = [name for name, a in arguments.items() if _is_floating(a)]
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
    """The default device, unless that has no float64: then the host."""
    on_tpu = jax.default_backend() == "tpu"
    return jax.local_devices(backend="cpu" if on_tpu else None)[0]


def _by_name(kernels) -> dict[str, Callable]:
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


def _is_floating(value) -> bool:
    return jnp.issubdtype(value.dtype, jnp.floating)
