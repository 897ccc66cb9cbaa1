"""The fully connected layers between the maps of an early network and its logits."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from cnn_jax.layers.regularization import Dropout
from cnn_jax.layers.types import Activation, ModuleFactory


def hidden_features(
    x: jax.Array,
    features: Sequence[int],
    *,
    dense: ModuleFactory,
    activation: Activation,
    dropout_rate: float,
    deterministic: bool,
    drop_inputs: bool = False,
) -> jax.Array:
    """Returns maps `x` `(n, h, w, c)`, flattened, after hidden layers: `(n, f)`.

    To be called in a module, whose submodules `classifier_dense1`,
    `classifier_dropout1`, ... the layers become. They fit one `h` and `w`.

    Args:
      x: The maps; they are flattened row by row, the channels innermost.
      features: The number of outputs of each layer.
      dense: Makes the layers.
      activation: Applied after each layer.
      dropout_rate: The probability of dropping an entry.
      deterministic: Whether nothing is dropped.
      drop_inputs: Whether the layers' inputs are dropped instead of their outputs.
    """
    x = x.reshape(x.shape[0], -1)
    for index, num_features in enumerate(features, start=1):
        drop = Dropout(
            dropout_rate,
            deterministic=deterministic,
            name=f"classifier_dropout{index}",
        )
        x = drop(x) if drop_inputs else x
        x = activation(dense(num_features, name=f"classifier_dense{index}")(x))
        x = x if drop_inputs else drop(x)
    return x
