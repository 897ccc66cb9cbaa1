"""A network with all that transfer distinguishes, in two stages and a head."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.layers import BatchNorm, Conv, Dense, Dropout, abstract_variables


class StagedNet(nn.Module):
    """Two convolutions, each with its batch norm; dropout; a head that may be left out.

    Attributes:
      num_classes: The number of logits, 0 for the features.
      dropout_rate: Of the features.
    """

    num_classes: int = 10
    dropout_rate: float = 0.2

    @nn.compact
    def __call__(self, x, *, train=False, endpoints=False):
        """Returns the logits, and the ends of the stages if requested."""
        named = {}
        # The names are not in the order of the stages.
        for stage, conv in (("stem", "second"), ("stage1", "first")):
            x = Conv(4, 3, strides=2, use_bias=False, name=conv)(x)
            norm = BatchNorm(use_running_average=not train, name=f"{conv}_norm")
            x = named[stage] = nn.relu(norm(x))
        x = named["features"] = jnp.mean(x, axis=(1, 2))
        x = Dropout(self.dropout_rate, deterministic=not train)(x)
        if self.num_classes:
            x = Dense(self.num_classes, name="head")(x)
        return (x, named) if endpoints else x


IMAGES = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
"""The input of `StagedNet`."""

NORMS = {
    f"{name}_norm/{leaf}" for name in ("first", "second") for leaf in ("scale", "bias")
}
HEAD = {"head/kernel", "head/bias"}


def make_variables(seed=0):
    """Returns variables of which none is 0 or 1, negative zeros among them."""
    shapes = abstract_variables(StagedNet(), IMAGES)
    generator = np.random.default_rng(seed)

    def draw(leaf):
        # Vectors are scales, variances and the like: above 0.
        low = -1.0 if leaf.ndim > 1 else 0.5
        return generator.uniform(low, 1.5, leaf.shape).astype(leaf.dtype)

    variables = jax.tree.map(draw, shapes)
    for path in (("second", "kernel"), ("second_norm", "bias")):
        variables["params"][path[0]][path[1]][..., 0] = -0.0
    variables["batch_stats"]["first_norm"]["mean"][0] = -0.0
    return variables


def make_batch(seed=0, num_examples=16):
    """Returns a batch of random images."""
    images = jax.random.normal(jax.random.key(seed), (num_examples, 8, 8, 1)) + 0.5
    return {"image": images, "label": jnp.arange(num_examples) % 10}
