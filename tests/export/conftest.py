"""Networks to export, with weights under which every block matters."""

import jax
import numpy as np
import pytest
from references.weights import weight

import cnn_jax
from cnn_jax.export.network import Network, describe
from cnn_jax.layers import abstract_variables
from cnn_jax.models import model_info


@pytest.fixture(scope="session")
def make_network():
    """Returns a function of a model's name that returns it as a network to export."""

    def make(name, *, normalized=False, dtype=None, class_names=None, **fields):
        model = cnn_jax.create_model(name, dtype=dtype, **fields)
        info = model_info(name)
        images = jax.ShapeDtypeStruct((1, *info.input_shape), np.float32)

        def fill(path, leaf):
            names = [each.key for each in path]
            filled = {"mean": "running_mean", "var": "running_var"}
            names[-1] = filled.get(names[-1], names[-1])
            return weight("/".join(names), leaf.shape, layout="keras").astype(
                leaf.dtype
            )

        shapes = abstract_variables(model, images)
        description = describe(
            name, model, info.preprocessing, class_names, normalized=normalized
        )
        return Network(
            model, jax.tree_util.tree_map_with_path(fill, shapes), description
        )

    return make
