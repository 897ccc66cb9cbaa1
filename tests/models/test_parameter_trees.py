"""Every model's variables: names, shapes and dtypes as they were.

Checkpoints depend on them. After an intended change, rewrite the recorded trees with

    PYTHONPATH=tests python tests/models/test_parameter_trees.py
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import pytest
from helpers.quick import LONG, QUICK, nightly_except

import cnn_jax

TREES = pathlib.Path(__file__).parent / "parameter_trees"


def variable_tree(name, *, train=False):
    """Returns {path: "dtype[shape]"} of a model's variables, without making them."""
    model = cnn_jax.create_model(name)
    x = jax.ShapeDtypeStruct((1, *cnn_jax.model_info(name).input_shape), jnp.float32)
    key = jax.eval_shape(jax.random.key, 0)

    def initialize(key, dropout_key, x):
        return model.init({"params": key, "dropout": dropout_key}, x, train=train)

    variables = jax.eval_shape(initialize, key, key, x)
    return {
        "/".join(entry.key for entry in path): (
            f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }


def write_trees():
    TREES.mkdir(exist_ok=True)
    for path in TREES.glob("*.json"):
        path.unlink()
    for name in cnn_jax.list_models():
        text = json.dumps(variable_tree(name), indent=1, sort_keys=True)
        (TREES / f"{name}.json").write_text(text + "\n", encoding="utf-8")


@pytest.mark.parametrize("name", nightly_except({*QUICK} - LONG, cnn_jax.list_models()))
def test_equals_the_recorded_tree(name):
    recorded = json.loads((TREES / f"{name}.json").read_text(encoding="utf-8"))
    assert variable_tree(name) == recorded


@pytest.mark.nightly
@pytest.mark.parametrize("name", QUICK)
def test_is_the_same_in_training(name):
    assert variable_tree(name, train=True) == variable_tree(name)


def test_every_recorded_tree_has_its_model():
    assert sorted(path.stem for path in TREES.glob("*.json")) == cnn_jax.list_models()


if __name__ == "__main__":
    write_trees()
