"""Weights of any kind as a network to export: a function with its description."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.checkpoint import installed_versions
from cnn_jax.data.device import normalize
from cnn_jax.export.description import Description
from cnn_jax.preprocessing import Preprocessing
from cnn_jax.pretrained import load_network


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network to export.

    Attributes:
      model: The model, of the classes in `cnn_jax.models`.
      variables: Its variables, on the host.
      description: What the file will say of it.
    """

    model: Any
    variables: dict[str, Any]
    description: Description

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that it computes in."""
        return np.dtype("float32" if self.model.dtype is None else self.model.dtype)

    def __call__(self, variables: Any, images: jax.Array) -> jax.Array:
        """Returns the logits, of images as the description has them.

        Args:
          variables: Its variables, or what stands for them while they are traced.
          images: `(batch, height, width, channels)`.
        """
        about = self.description.preprocessing
        if self.description.normalized:
            x = images.astype(self.dtype)
        else:
            assert about.mean is not None  # `open_network` checks it
            assert about.std is not None
            x = normalize(images, about.mean, about.std, self.dtype)
        logits: jax.Array = self.model.apply(variables, x, train=False)
        return logits

    def in_float32(self) -> Network:
        """Returns the network with float32 parameters that computes in float32."""
        model = self.model.clone(dtype=jnp.float32, param_dtype=jnp.float32)
        variables = jax.tree.map(
            lambda leaf: np.asarray(leaf, np.float32), self.variables
        )
        return Network(model, variables, self.description)

    def example(self, batch: int) -> np.ndarray:
        """Returns random images as the description has them, the same each time."""
        generator = np.random.default_rng(0)
        shape = (batch, *self.description.input_shape)
        if self.description.normalized:
            return generator.normal(size=shape).astype(np.float32)
        return generator.integers(0, 256, shape, np.uint8)


def open_network(
    weights: str | os.PathLike[str],
    *,
    model: str | None = None,
    num_classes: int | None = None,
    normalized: bool = False,
) -> Network:
    """Returns the network of a training run or of other weights.

    Args:
      weights: What `load_pretrained` reads, but no mapping.
      model: The model's name; None takes the one that they say.
      num_classes: How many classes they are for; None takes what they say, or the
        model's usual number.
      normalized: Whether it takes normalised images, and not pixels.

    Raises:
      FileNotFoundError, ImportError, ValueError: As `load_pretrained`. If pixels cannot
        be normalised, since nobody says how.
    """
    loaded = load_network(weights, name=model, num_classes=num_classes)
    if not normalized:
        loaded.normalization(
            instead="export with --normalized, and give the file such images"
        )
    description = describe(
        loaded.name,
        loaded.model,
        loaded.preprocessing,
        loaded.class_names,
        normalized=normalized,
    )
    return Network(loaded.model, jax.device_get(loaded.variables), description)


def describe(
    name: str,
    model: nn.Module,
    preprocessing: Preprocessing,
    class_names: tuple[str, ...] | None,
    *,
    normalized: bool,
) -> Description:
    """Returns the description of a model, with the versions that are installed."""
    import cnn_jax

    return Description(
        model=name,
        num_classes=model.num_classes,
        class_names=class_names,
        preprocessing=preprocessing,
        normalized=normalized,
        versions={"cnn_jax": cnn_jax.__version__, **installed_versions()},
    )
