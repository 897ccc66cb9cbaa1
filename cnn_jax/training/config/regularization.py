"""Regularisation: configuration against overfitting."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from cnn_jax.ranges import MAX_SIDE, Real, Whole
from cnn_jax.training.config.requirements import MAX_EPOCHS, Share

Alpha = Annotated[float, Real(1e-3, 1e3, or_zero=True)]
"""Of a Beta distribution whose float32 draws are finite; 0 for none."""

REGULARIZERS = (
    "dropout_rate",
    "spatial_dropout_rate",
    "drop_block_rate",
    "drop_block_size",
    "stochastic_depth_rate",
)
"""Fields of the configuration that are the model's own, under the same name, and that
evaluation does not see."""

MODEL_FIELDS = (*REGULARIZERS, "remat")
"""All fields of the configuration that are the model's own."""


@dataclasses.dataclass(frozen=True)
class RegularizationConfig:
    """The part of `TrainConfig` about regularisers; weight decay is the optimizer's."""

    label_smoothing: Share = 0.0
    """Weight of the uniform distribution in the targets."""
    auxiliary_weight: Annotated[float, Real(1e-6, 100.0, or_zero=True)] = 0.3
    """Weight of the loss of each auxiliary head, of models that have them (GoogLeNet,
    Inception v3); 0 leaves them untrained."""
    mixup_alpha: Alpha = 0.0
    """Of the Beta distribution of mixup's shares. Default 0: no mixup."""
    cutmix_alpha: Alpha = 0.0
    """The same for CutMix; with both, each batch gets one of them."""
    dropout_rate: Share | None = None
    """Probability of dropping an entry, where the model has dropout. Default: the
    model's."""
    spatial_dropout_rate: Share | None = None
    """That of dropping a whole channel. Default: the model's."""
    drop_block_rate: Share | None = None
    """The share of a map that DropBlock drops in squares. Default: the model's."""
    drop_block_size: Annotated[int, Whole(1, MAX_SIDE)] | None = None
    """The squares' height and width. Default: the model's."""
    stochastic_depth_rate: Share | None = None
    """That of dropping the last block of residual branches. Default: the model's."""
    patience: Annotated[int, Whole(1, MAX_EPOCHS)] | None = None
    """Epochs without gain in validation accuracy before stopping. Default: never."""
    minimum_gain: Annotated[float, Real(1e-6, 1.0, or_zero=True)] = 0.0
    """Gain that counts: more than this above the best so far."""

    def model_overrides(self) -> dict[str, Any]:
        """Returns the fields that were given and are the model's own.

        They go to `create_model(name, **overrides)`, which refuses those that the model
        does not have.
        """
        fields = {name: getattr(self, name) for name in MODEL_FIELDS}
        return {name: value for name, value in fields.items() if value is not None}
