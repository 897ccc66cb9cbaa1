"""A small network whose every layer matters, and all others without numbers."""

import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnn_jax
from cnn_jax import layers
from cnn_jax.pretrained.files.own_checkpoints import nested

TREES = pathlib.Path(__file__).resolve().parents[1] / "models" / "parameter_trees"


@functools.cache
def make_small_network():
    """Returns a model, its variables and images, as float64 NumPy arrays."""
    model = cnn_jax.create_model(
        "resnet20",
        num_classes=4,
        stage_sizes=(1, 1),
        stage_features=(4, 6),
        stem_features=4,
        param_dtype=jnp.float64,
    )
    generator = np.random.default_rng(0)
    with jax.enable_x64(True):
        images = generator.normal(size=(3, 8, 8, 3))
        shapes = layers.abstract_variables(model, images)
        variables = jax.tree.map(
            lambda leaf: generator.uniform(-1.0, 1.0, leaf.shape), shapes
        )
    variables["batch_stats"] = jax.tree.map(
        lambda leaf: np.abs(leaf) + 0.5, variables["batch_stats"]
    )
    return model, variables, images


@pytest.fixture
def small_network(x64):
    """A residual network, its variables and three images, in float64."""
    return make_small_network()


@pytest.fixture(scope="session")
def abstract_variables():
    """Returns a model's variables by its name, without tracing it."""
    return read_abstract_variables


def read_abstract_variables(name):
    """Returns a model's variables, without numbers and without tracing it."""
    specs = json.loads((TREES / f"{name}.json").read_text())
    leaves = {}
    for path, spec in specs.items():
        dtype, sizes = re.fullmatch(r"(\w+)\[([\d,]*)\]", spec).groups()
        shape = tuple(map(int, filter(None, sizes.split(","))))
        leaves[path] = jax.ShapeDtypeStruct(shape, dtype)
    return nested(leaves)
