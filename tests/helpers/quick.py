"""The choice of what default tests run, and of what is marked slow or nightly.

Tests marked `slow` run on every change, in `.ci/run`; those marked `nightly` in
`.ci/run nightly`.
"""

import pytest

import cnn_jax

NAMES = cnn_jax.list_models()


def slow_except(quick, values):
    """Returns parameters for `parametrize`: those that are not quick marked `slow`."""
    return _marked_except(quick, values, pytest.mark.slow)


def nightly_except(quick, values):
    """Returns parameters for `parametrize`: the others marked `nightly`."""
    return _marked_except(quick, values, pytest.mark.nightly)


def _marked_except(quick, values, mark):
    return [
        value if value in quick else pytest.param(value, marks=mark) for value in values
    ]


def smallest_of_each_module():
    """Returns the smallest network of each module: the others are the same code."""
    infos = sorted(map(cnn_jax.model_info, NAMES), key=lambda info: -info.parameters)
    smallest = {type(cnn_jax.create_model(info.name)): info.name for info in infos}
    return sorted(smallest.values())


QUICK = smallest_of_each_module()

LONG = {
    *("convnext_tiny", "densenet121", "googlenet", "inception_v3", "mnasnet0_5"),
    *("mobilenet_v3_small", "xception"),
}
"""Those of them whose gradient takes a quarter of a minute to compile."""

MARKED = nightly_except({*QUICK} - LONG, NAMES)
"""All models, those marked `nightly` that the default tests leave out."""


def smallest_of_each_family():
    """Returns the smallest network of each family."""
    smallest = {}
    for info in map(cnn_jax.model_info, NAMES):
        known = smallest.setdefault(info.family, info)
        if info.parameters < known.parameters:
            smallest[info.family] = info
    # The code and the reference of `efficientnet_v2`, in another recipe of training.
    del smallest["efficientnet_v2_large"]
    return sorted(info.name for info in smallest.values())
