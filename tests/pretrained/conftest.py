"""Small networks' variables, here and under the names of other libraries."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnn_jax
from cnn_jax.layers import abstract_variables
from cnn_jax.trees import named_leaves


def random_variables(name):
    """Returns a model's variables, drawn at random, as NumPy arrays."""
    model = cnn_jax.create_model(name)
    shape = cnn_jax.model_info(name).input_shape
    shapes = abstract_variables(model, jnp.zeros((1, *shape)))
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: generator.normal(size=leaf.shape).astype(np.float32), shapes
    )


@pytest.fixture(scope="session")
def variables():
    """A ResNet-20's."""
    return random_variables("resnet20")


@pytest.fixture
def arrays(variables):
    """The variables under PyTorch's names, in PyTorch's layouts."""
    arrays = {}
    for path, array in named_leaves(variables).items():
        _, *layers, leaf = path.split("/")
        name = "/".join(layers)
        name = re.sub(
            r"stage(\d)_block(\d+)",
            lambda match: f"layer{match[1]}/{int(match[2]) - 1}",
            name,
        )
        name = re.sub(r"conv(\d)/(conv|norm)", _torch_layer, name)
        name = name.replace("stem/conv", "conv1").replace("stem/norm", "bn1")
        name = name.replace("head", "linear").replace("/", ".")
        leaf = {"kernel": "weight", "scale": "weight", "bias": "bias"}.get(
            leaf, f"running_{leaf}"
        )
        arrays[f"{name}.{leaf}"] = _torch_layout(array)
        if leaf == "running_var":
            arrays[f"{name}.num_batches_tracked"] = np.array(7)
    return arrays


@pytest.fixture(scope="session")
def lenet():
    """A LeNet-5's variables: few and small."""
    return random_variables("lenet5")


@pytest.fixture
def lenet_arrays(lenet):
    """Those under PyTorch's names, in PyTorch's layouts."""
    return {
        f"{layer.replace('head', 'output')}.{torch_leaf}": _torch_layout(leaves[leaf])
        for layer, leaves in lenet["params"].items()
        for leaf, torch_leaf in (("kernel", "weight"), ("bias", "bias"))
    }


def _torch_layout(array):
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, (0,))
    return array.transpose(axes).copy()


def _torch_layer(match):
    return f"{'conv' if match[2] == 'conv' else 'bn'}{match[1]}"
