"""What changes from one training step to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct


@struct.dataclass
class TrainState:
    """The state of a run: a tree of arrays, with the two functions that move it.

    Attributes:
      step: The number of finished steps, int32.
      params: The trained parameters.
      batch_stats: Running statistics, empty for a model that has none.
      opt_state: The optimizer's state.
      apply_fn: The model's `apply`.
      optimizer: The optax transformation.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    apply_fn: Callable[..., Any] = struct.field(pytree_node=False)
    optimizer: optax.GradientTransformation = struct.field(pytree_node=False)

    @classmethod
    def create(
        cls,
        model: Any,
        optimizer: optax.GradientTransformation,
        key: jax.Array,
        images: jax.Array,
    ) -> TrainState:
        """Initialises a model and its optimizer.

        Args:
          model: Anything with `init(key, images, train=False)` and `apply`.
          optimizer: An optax transformation.
          key: The key that the parameters are drawn with.
          images: A batch of the shape and dtype the model will get; only these count.
        """
        variables = dict(model.init(key, images, train=False))
        params = variables.pop("params")
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables.pop("batch_stats", {}),
            opt_state=optimizer.init(params),
            apply_fn=model.apply,
            optimizer=optimizer,
        )

    @property
    def variables(self) -> dict[str, Any]:
        """What the model's `apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def apply_gradients(self, gradients: Any, batch_stats: Any) -> TrainState:
        """Returns the state one step further."""
        updates, opt_state = self.optimizer.update(
            gradients, self.opt_state, self.params
        )
        return self.replace(
            step=self.step + 1,
            params=optax.apply_updates(self.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
