"""A LeNet-5 with drawn variables, for tests that need no training."""

import jax
import numpy as np

import cnn_jax
from cnn_jax.layers import abstract_variables


def draw_lenet5(scale):
    """Returns the model, and variables with which images get logits of their own."""
    model = cnn_jax.create_model("lenet5")
    generator = np.random.default_rng(0)
    shapes = abstract_variables(model, jax.ShapeDtypeStruct((1, 32, 32, 1), "float32"))
    variables = jax.tree.map(
        lambda leaf: scale * generator.normal(size=leaf.shape).astype(np.float32),
        shapes,
    )
    return model, variables
