"""Which models the default tests run in full, so that they end in minutes."""

import pytest

import cnn_jax

NAMES = cnn_jax.list_models()


def smallest_of_each_module():
    """Returns the smallest network of each module: the others are the same code."""
    infos = sorted(map(cnn_jax.model_info, NAMES), key=lambda info: -info.parameters)
    smallest = {type(cnn_jax.create_model(info.name)): info.name for info in infos}
    return sorted(smallest.values())


QUICK = smallest_of_each_module()

LONG = {"convnext_tiny", "densenet121", "inception_v3"}
"""Those of them whose gradient takes a quarter of a minute to compile."""

MARKED = [
    name
    if name in QUICK and name not in LONG
    else pytest.param(name, marks=pytest.mark.slow)
    for name in NAMES
]
"""All models, those marked `slow` that the default tests leave out."""
