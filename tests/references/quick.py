"""What the default tests run in full, so that they end in minutes; CI runs the rest."""

import pytest

import cnn_jax

NAMES = cnn_jax.list_models()


def slow_except(quick, values):
    """Returns parameters for `parametrize`: those that are not quick marked `slow`."""
    return [
        value if value in quick else pytest.param(value, marks=pytest.mark.slow)
        for value in values
    ]


def smallest_of_each_module():
    """Returns the smallest network of each module: the others are the same code."""
    infos = sorted(map(cnn_jax.model_info, NAMES), key=lambda info: -info.parameters)
    smallest = {type(cnn_jax.create_model(info.name)): info.name for info in infos}
    return sorted(smallest.values())


QUICK = smallest_of_each_module()

LONG = {"convnext_tiny", "densenet121", "googlenet", "inception_v3", "xception"}
"""Those of them whose gradient takes a quarter of a minute to compile."""

MARKED = slow_except({*QUICK} - LONG, NAMES)
"""All models, those marked `slow` that the default tests leave out."""
