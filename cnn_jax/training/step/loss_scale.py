"""Dynamic loss scaling, which keeps small gradients of float16.

In float16 whatever is below 6e-8 is zero,
and the gradients of activations often are. So the loss is multiplied by a large number
before the backward pass and the gradients divided by it after, in float32. Were the
number too large, gradients would overflow: then the step's update is skipped and the
number halves; after many good steps it doubles (Micikevicius et al. 2018, "Mixed
Precision Training").

bfloat16 has float32's range and needs none of this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import jax
import jax.numpy as jnp
from flax import struct

LARGEST_SCALE = 2.0**24
"""The end of growth: twice this many times a loss may still be a float32."""


@struct.dataclass
class LossScale:
    """The factor of the loss, and when it changes.

    Attributes:
      value: The factor, float32, a number in [1, `LARGEST_SCALE`].
      good_steps: Steps since the last change, int32.
      growth_steps: Good steps after which the factor doubles.
    """

    value: jax.Array
    good_steps: jax.Array
    growth_steps: int = struct.field(pytree_node=False)

    if TYPE_CHECKING:  # what `struct.dataclass` adds

        def replace(self, **changes: Any) -> Self:
            """Returns a copy with other values of some fields."""

    @classmethod
    def create(cls, initial: float, growth_steps: int) -> LossScale:
        """Returns the scale before the first step.

        Raises:
          ValueError: If `initial` is outside [1, `LARGEST_SCALE`] or `growth_steps` is
            below 1.
        """
        if not 1 <= initial <= LARGEST_SCALE or growth_steps < 1:
            raise ValueError(
                f"LossScale: got initial {initial} and growth_steps {growth_steps}, "
                f"expected a number in [1, {LARGEST_SCALE:.0f}], and 1 step or more."
            )
        return cls(jnp.float32(initial), jnp.int32(0), growth_steps)

    def after(self, is_good: jax.Array) -> LossScale:
        """Returns the scale after a step whose gradients were finite or not."""
        good_steps = jnp.where(is_good, self.good_steps + 1, 0)
        grows = good_steps >= self.growth_steps
        value = jnp.where(
            is_good,
            jnp.where(grows, self.value * 2, self.value),
            self.value / 2,
        )
        return self.replace(
            value=jnp.clip(value, 1.0, LARGEST_SCALE),
            good_steps=jnp.where(grows, 0, good_steps),
        )
