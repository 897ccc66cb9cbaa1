"""Auxiliary classifiers: on request or in training, at every size, to be left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.quick import nightly_except
from references import ours

import cnn_jax
from cnn_jax.layers import trace_layers

HEADS = {"googlenet": ["aux1", "aux2"], "inception_v3": ["aux1"]}


def endpoint_shapes(name, size, train, **fields):
    model = cnn_jax.create_model(name, num_classes=7, **fields)
    keys = jax.eval_shape(jax.random.key, 0)
    x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)

    def run(key, x):
        variables = model.init(key, x, train=False)
        (_, endpoints), _ = model.apply(
            variables,
            x,
            train=train,
            endpoints=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        return {path: leaf for path, leaf in endpoints.items() if "aux" in path}

    return {path: leaf.shape for path, leaf in jax.eval_shape(run, keys, x).items()}


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("googlenet", (15, 15)),  # the smallest, where the heads see one pixel
        ("googlenet", (100, 230)),
        pytest.param("inception_v3", (75, 76), marks=pytest.mark.nightly),
        # Too small for torchvision's in one dimension.
        pytest.param("inception_v3", (298, 330), marks=pytest.mark.nightly),
        pytest.param("inception_v3", (360, 299), marks=pytest.mark.nightly),
    ],
)
def test_classify_at_every_size_as_endpoints(name, size):
    expected = dict.fromkeys(HEADS[name], (2, 7))
    assert endpoint_shapes(name, size, train=True) == expected
    assert endpoint_shapes(name, size, train=False) == expected


@pytest.mark.parametrize("name", nightly_except(["googlenet"], HEADS))
def test_do_not_run_where_left_out(name):
    for train in (False, True):
        assert endpoint_shapes(name, (80, 80), train=train, aux_heads=False) == {}


@pytest.mark.parametrize("name", nightly_except(["googlenet"], HEADS))
def test_run_in_inference_only_if_asked_for(name):
    model = cnn_jax.create_model(name, num_classes=7)
    x = jax.ShapeDtypeStruct((2, 80, 80, 3), jnp.float32)

    def heads_that_run(**arguments):
        calls = trace_layers(model, x, train=False, **arguments)
        # Those that initialisation alone runs have parameters, and no part in it.
        return sorted(
            call.path for call in calls if call.runs and call.path in HEADS[name]
        )

    assert heads_that_run() == []
    assert heads_that_run(endpoints=True) == HEADS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", nightly_except(["googlenet"], HEADS))
def test_left_out_their_weights_are_ignored(name):
    shapes = ours.read_recorded(name)["arrays"]
    arrays = {path: np.zeros(shape, np.float32) for path, shape in shapes.items()}
    whole, _ = cnn_jax.load_pretrained(name, arrays)
    model = cnn_jax.create_model(name, aux_heads=False)
    variables, report = cnn_jax.load_pretrained(model, arrays)
    for collection, tree in whole.items():
        kept = {key for key in tree if not key.startswith("aux")}
        assert set(variables[collection]) == kept < set(tree)
    assert all(path.lower().startswith("aux") for path in report.ignored)
    assert len(report.ignored) + len(report.loaded) == len(arrays)
