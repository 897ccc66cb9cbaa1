"""Training: a pure step, what surrounds it, and the loop that runs it.

Only what needs nothing but jax, flax, optax and NumPy is exported here. The loop, which
also logs and saves, is `cnn_jax.training.loop.fit`.
"""

from cnn_jax.training.config import TrainConfig
from cnn_jax.training.optim import make_optimizer, make_schedule
from cnn_jax.training.state import TrainState
from cnn_jax.training.steps import eval_step, train_step

__all__ = [
    "TrainConfig",
    "TrainState",
    "eval_step",
    "make_optimizer",
    "make_schedule",
    "train_step",
]
