"""Convolutional networks in JAX: hand-derived kernels, landmark models, training.

The door of the house. Kernels are pure functions (`cnn_jax.kernels`), models are Flax
modules made by name, and everything else is imported from its own room.
"""

import importlib
from typing import TYPE_CHECKING

from cnn_jax import kernels
from cnn_jax.models import create_model, list_models, model_info

if TYPE_CHECKING:
    from cnn_jax import testing
    from cnn_jax.pretrained import load_pretrained

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "create_model",
    "kernels",
    "list_models",
    "load_pretrained",
    "model_info",
    "testing",
]


# Not for type checkers, to whom it would make every misspelt name one of the package.
if not TYPE_CHECKING:

    def __getattr__(name: str):
        # `testing` needs chex, which a machine that only runs the kernels may lack.
        if name == "testing":
            return importlib.import_module("cnn_jax.testing")
        # The key maps are read only by those who load weights.
        if name == "load_pretrained":
            return importlib.import_module("cnn_jax.pretrained").load_pretrained
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
