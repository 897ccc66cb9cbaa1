"""Training: a pure step, what surrounds it, and the loop that runs it.

Only what needs nothing but jax, flax, optax and NumPy is exported here. A whole run,
which also logs and saves, is `cnn_jax.fit`.
"""

from cnn_jax.training.config import TrainConfig
from cnn_jax.training.optimizers.optimizer import make_optimizer
from cnn_jax.training.optimizers.schedules import make_schedule
from cnn_jax.training.step.evaluation import eval_step, evaluation_metrics, zero_sums
from cnn_jax.training.step.loss_scale import LossScale
from cnn_jax.training.step.state import TrainState, state_options
from cnn_jax.training.step.training import StepOptions, step_options, train_step

__all__ = [
    "LossScale",
    "StepOptions",
    "TrainConfig",
    "TrainState",
    "eval_step",
    "evaluation_metrics",
    "make_optimizer",
    "make_schedule",
    "state_options",
    "step_options",
    "train_step",
    "zero_sums",
]
