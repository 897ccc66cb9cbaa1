"""Convolutional networks in JAX: hand-derived kernels, landmark models, training.

The public API. Kernels are pure functions (`cnn_jax.kernels`), models are Flax modules
made by name, `fit` trains any of them or a module of one's own; everything else is
imported from the package that it is in.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnn_jax import kernels, testing
    from cnn_jax.export import load_exported
    from cnn_jax.models import create_model, list_models, model_info
    from cnn_jax.pretrained import load_pretrained
    from cnn_jax.training import TrainConfig
    from cnn_jax.training.run.fit import fit

__version__ = "0.1.0"

__all__ = [
    "TrainConfig",
    "__version__",
    "create_model",
    "fit",
    "kernels",
    "list_models",
    "load_exported",
    "load_pretrained",
    "model_info",
    "testing",
]

# Imported when first asked for: `testing` needs chex and `fit` Orbax, which a machine
# that only runs the kernels may lack; and JAX takes seconds, before which a program
# listens to signals (see `cnn_jax.program`).
_LAZY = {
    "TrainConfig": "cnn_jax.training",
    "create_model": "cnn_jax.models",
    "fit": "cnn_jax.training.run.fit",
    "list_models": "cnn_jax.models",
    "load_exported": "cnn_jax.export",
    "load_pretrained": "cnn_jax.pretrained",
    "model_info": "cnn_jax.models",
}
_PACKAGES = ("geometry", "kernels", "layers", "models", "testing")

# Hidden from type checkers, which would else accept every misspelt name.
if not TYPE_CHECKING:

    def __getattr__(name: str):
        if name in _PACKAGES:
            return importlib.import_module(f"cnn_jax.{name}")
        if name in _LAZY:
            return getattr(importlib.import_module(_LAZY[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *_LAZY, *_PACKAGES})
