"""One row of the table of cases, and how its arguments are drawn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Draw = Callable[[np.random.Generator], Any]
"""Draws one argument."""

Options = Mapping[str, Any]
"""Keyword arguments of a kernel."""


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


def among(values: Sequence[float], *shape: int) -> Draw:
    """Draws from these values: those where a function bends, say."""
    return lambda generator: generator.choice(np.asarray(values, np.float64), shape)


def classes(count: int, *shape: int) -> Draw:
    """Draws class numbers below `count`."""
    return lambda generator: generator.integers(0, count, shape).astype(np.int32)


def random_key() -> Draw:
    """Draws a JAX random key."""
    return lambda generator: jax.random.key(int(generator.integers(1 << 31)))


PER_EXAMPLE = ("x", "dy", "lhs", "logits", "labels")
"""Names of the kernels' arguments that hold one entry per example; not filters."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table: a kernel, how to draw its arguments, and its options.

    Attributes:
      kernel: The kernel's name, the same in `kernels` and `kernels.autodiff`.
      label: What distinguishes the row from the kernel's other rows.
      arguments: The positional arguments: name -> draw, in order.
      options: Keyword arguments.
      has_corners: Whether a drawn value may be where there is no derivative, so that
        finite differences are no reference.
      per_example: Names of arguments whose first axis counts examples. Names that the
        case does not have are ignored.
    """

    kernel: str
    label: str
    arguments: Mapping[str, Draw]
    options: Options = dataclasses.field(default_factory=dict)
    has_corners: bool = False
    per_example: tuple[str, ...] = PER_EXAMPLE

    def __str__(self) -> str:
        """Returns the row's name."""
        return f"{self.kernel}-{self.label}"

    def draw(
        self, seed: int, dtype: jax.typing.DTypeLike = np.float64
    ) -> dict[str, jax.Array]:
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

    def has_examples(self, name: str, array: jax.Array) -> bool:
        """Returns whether the first axis of this argument's `array` counts examples."""
        # A vector of numbers is one example, a vector of class numbers is not.
        is_vector = array.ndim == 1 and is_floating(array)
        return name in self.per_example and not is_vector

    def with_batch(self, times: int) -> Case:
        """Returns this case with `times` as many examples, drawn one batch a time."""

        def repeated(name, draw):
            def draw_batches(generator):
                first = draw(generator)
                if not self.has_examples(name, first):
                    return first
                return np.concatenate(
                    [first, *(draw(generator) for _ in range(times - 1))]
                )

            return draw_batches

        arguments = {
            name: repeated(name, draw) for name, draw in self.arguments.items()
        }
        options = dict(self.options)
        if "input_shape" in options:
            examples, *rest = options["input_shape"]
            options["input_shape"] = (times * examples, *rest)
        label = f"{self.label}, {times} batches"
        return dataclasses.replace(
            self, label=label, arguments=arguments, options=options
        )

    def apply(self, fn: Callable[..., Any], arguments: Mapping[str, jax.Array]) -> Any:
        """Calls `fn` with these arguments, in the kernel's order, and the options."""
        # JAX sorts the keys of a dict that passes through a transformation.
        return fn(*(arguments[name] for name in self.arguments), **self.options)


def is_floating(value: np.ndarray | jax.Array) -> bool:
    """Returns whether an array holds floating-point numbers."""
    return jnp.issubdtype(value.dtype, jnp.floating)
