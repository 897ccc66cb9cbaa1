"""The table of cases that every proof of the kernels runs over.

A row names a kernel, says how to draw its arguments and which options to pass. The
gradient check runs over it on a user's machine, and so do the project's own tests: a
new kernel is a new row.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.geometry import Window

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
            name: jnp.asarray(value, dtype) if is_floating(value) else value
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


def is_floating(value) -> bool:
    """Returns whether an array holds floating-point numbers."""
    return jnp.issubdtype(value.dtype, jnp.floating)
