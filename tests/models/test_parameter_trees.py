"""Every model's variables: names, shapes and dtypes as they were.

Checkpoints depend on them. After an intended change, rewrite the golden files with

    PYTHONPATH=tests python tests/models/test_parameter_trees.py
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import pytest
from references.quick import QUICK, slow_except

import cnn_jax

GOLDEN = pathlib.Path(__file__).parent / "golden"


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


def write_golden_files():
    GOLDEN.mkdir(exist_ok=True)
    for path in GOLDEN.glob("*.json"):
        path.unlink()
    for name in cnn_jax.list_models():
        text = json.dumps(variable_tree(name), indent=1, sort_keys=True)
        (GOLDEN / f"{name}.json").write_text(text + "\n", encoding="utf-8")


@pytest.mark.parametrize("name", slow_except(QUICK, cnn_jax.list_models()))
def test_equals_golden_tree(name):
    golden = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    assert variable_tree(name) == golden


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_is_the_same_in_training(name):
    assert variable_tree(name, train=True) == variable_tree(name)


def test_every_golden_file_has_its_model():
    assert sorted(path.stem for path in GOLDEN.glob("*.json")) == cnn_jax.list_models()


if __name__ == "__main__":
    write_golden_files()
