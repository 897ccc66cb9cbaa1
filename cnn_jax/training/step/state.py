"""The state that changes from one training step to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cnn_jax import trees
from cnn_jax.layers import init_variables
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.step.loss_scale import LossScale


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
      average: `{"params", "batch_stats"}`, moving averages of the two, in float32 at
        least: a narrower dtype would lose most of their small steps. Empty without.
      loss_scale: For float16, else None.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    apply_fn: Callable[..., Any] = struct.field(pytree_node=False)
    optimizer: optax.GradientTransformation = struct.field(pytree_node=False)
    average: dict[str, Any] = struct.field(default_factory=dict)
    loss_scale: LossScale | None = None

    if TYPE_CHECKING:  # what `struct.dataclass` adds

        def replace(self, **changes: Any) -> Self:
            """Returns a copy with other values of some fields."""

    @classmethod
    def create(
        cls,
        model: Any,
        optimizer: optax.GradientTransformation,
        key: jax.Array,
        images: jax.Array,
        *,
        averages: bool = False,
        loss_scale: LossScale | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> TrainState:
        """Initialises a model and its optimizer.

        Args:
          model: Anything with `init(key, images, train=False)` and `apply`.
          optimizer: An optax transformation.
          key: The key that the parameters are drawn with.
          images: A batch of the shape and dtype the model will get; only these count.
          averages: Whether to keep moving averages, for a step with an `ema_decay`.
          loss_scale: For a model that computes in float16.
          variables: What to start from, `{"params", "batch_stats"}`; None for what
            `model.init` draws.
        """
        if variables is None:
            variables = init_variables(model, key, images)
        else:
            # Copies: a state is donated, and these are the caller's.
            variables = jax.tree.map(jnp.copy, variables)
        variables = dict(variables)
        params = variables.pop("params")
        state = cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables.pop("batch_stats", {}),
            opt_state=optimizer.init(params),
            apply_fn=model.apply,
            optimizer=optimizer,
            loss_scale=loss_scale,
        )
        if averages:
            # Copies: a donated state must not hold one buffer twice.
            state = state.replace(
                average=jax.tree.map(jnp.copy, trees.wide(state.variables))
            )
        return state

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(self.params)
        number = sum(leaf.size for leaf in leaves)
        return (
            f"TrainState({number:,} parameters in {len(leaves)} arrays"
            f"{', with averages' if self.average else ''})"
        )

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that the model's `apply` takes in training."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def evaluated_variables(self) -> dict[str, Any]:
        """The variables that are evaluated and kept: the averages, else `variables`.

        The averages are in the dtypes of `variables`, which the model computes with.
        """
        return trees.as_dtypes_of(self.variables, self.average) or self.variables

    def with_evaluated(self, variables: dict[str, Any]) -> TrainState:
        """Returns a state of the same structure that evaluates these variables."""
        if self.average:
            return self.replace(average=trees.as_dtypes_of(self.average, variables))
        return self.replace(**variables)

    def apply_gradients(
        self, gradients: Any, batch_stats: Any, *, ema_decay: float | None = None
    ) -> TrainState:
        """Returns the state one step further.

        An average moves from e to `e + (1 - d) (w - e)` with d the smaller of
        `ema_decay` and `(1 + step) / (10 + step)`, so that it does not cling to where
        training began. Its arithmetic is in float32 at least.

        Raises:
          ValueError: If there is an `ema_decay` but no average, or the reverse.
        """
        if (ema_decay is None) == bool(self.average):
            raise ValueError(
                f"ema_decay: got {ema_decay} for a state "
                f"{'with' if self.average else 'without'} averages; expected both or "
                "neither, see TrainState.create."
            )
        updates, opt_state = self.optimizer.update(
            gradients, self.opt_state, self.params
        )
        state = self.replace(
            step=self.step + 1,
            params=optax.apply_updates(self.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        if ema_decay is None:
            return state
        # 1 - d: of a decay near 1 in float32, little would be left to subtract.
        share = jnp.maximum(1 - ema_decay, 9 / (10 + self.step))
        return state.replace(
            average=jax.tree.map(
                lambda old, new: old + (share * (new - old)).astype(old.dtype),
                self.average,
                trees.as_dtypes_of(self.average, state.variables),
            )
        )


def state_options(config: TrainConfig) -> dict[str, Any]:
    """Returns what `TrainState.create` takes of a configuration."""
    loss_scale = None
    if config.dtype == "float16":
        loss_scale = LossScale.create(
            config.initial_loss_scale, config.loss_scale_growth_steps
        )
    return {"averages": config.ema_decay is not None, "loss_scale": loss_scale}
