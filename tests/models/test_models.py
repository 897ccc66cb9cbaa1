"""Invariants of every model of every family; by shapes alone, so in little time.

A trace of a large model takes a second, so one answers as many questions as it can.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import pytest
from helpers.quick import LONG, nightly_except
from helpers.quick import QUICK as NAMES

import cnn_jax
from cnn_jax import kernels as K


def switches(name):
    """Returns what changes a model's computation but not its results, switched on."""
    fields = {field.name for field in dataclasses.fields(cnn_jax.create_model(name))}
    return dict.fromkeys({"remat", "space_to_depth"} & fields, True)


def initial_shapes(name, *, shape=None, dtype=jnp.float32, fields=None):
    """Returns shapes and dtypes: logits and endpoints of inference, and variables."""
    model = cnn_jax.create_model(name, **(fields or {}))
    x = jax.ShapeDtypeStruct(shape or (2, *cnn_jax.model_info(name).input_shape), dtype)

    def initialize(key, x):
        return model.init_with_output(key, x, train=False, endpoints=True)

    (logits, endpoints), variables = jax.eval_shape(
        initialize, jax.eval_shape(jax.random.key, 0), x
    )
    return logits, endpoints, variables


@functools.cache
def default_shapes(name):
    return initial_shapes(name)


def apply_shapes(name, variables, *, train, fields=None):
    """Returns shapes and dtypes: logits, endpoints and updated statistics."""
    model = cnn_jax.create_model(name, **(fields or {}))
    x = jax.ShapeDtypeStruct((2, *cnn_jax.model_info(name).input_shape), jnp.float32)

    def apply(variables, key, x):
        return model.apply(
            variables,
            x,
            train=train,
            endpoints=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )

    key = jax.eval_shape(jax.random.key, 0)
    (logits, endpoints), updates = jax.eval_shape(apply, variables, key, x)
    return logits, endpoints, updates


def dtypes_of(tree):
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}


def test_every_kind_is_among_the_tested():
    assert {"lenet5", "vgg8_cifar", "resnet20", "googlenet", "convnext_tiny"} <= {
        *NAMES
    }


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_endpoints(name):
    logits, endpoints, variables = default_shapes(name)
    chex.assert_shape(logits, (2, cnn_jax.model_info(name).num_classes))
    assert dtypes_of((logits, endpoints, variables)) == {"float32"}
    # Tracing has sorted the names.
    stages = [key for key in endpoints if key.startswith("stage")]
    assert stages == [f"stage{number}" for number in range(1, len(stages) + 1)]
    assert len(stages) >= 3
    sizes = [endpoints[stage].shape[1] for stage in stages]
    assert sizes == sorted(sizes, reverse=True)
    assert endpoints["features"].ndim == 2
    heads = sorted(key for key in endpoints if key.startswith("aux"))
    optional = {"stem", "last_conv"} & {*endpoints}
    assert {*endpoints} == {*stages, "features", *heads, *optional}
    for head in heads:
        assert "head" in variables["params"][head]


@pytest.mark.parametrize("name", nightly_except({*NAMES} - LONG, NAMES))
def test_a_step_in_bfloat16_keeps_float32_parameters(name):
    _, expected, variables = default_shapes(name)
    logits, endpoints, updates = apply_shapes(
        name, variables, train=True, fields={"dtype": jnp.bfloat16}
    )
    chex.assert_shape(logits, (2, cnn_jax.model_info(name).num_classes))
    assert dtypes_of(logits) == {"float32"}
    assert dtypes_of(endpoints) == {"bfloat16"}
    chex.assert_trees_all_equal_shapes(endpoints, expected)
    # A training step maps a state to one of the same shapes and dtypes.
    assert updates.get("batch_stats", {}) == variables.get("batch_stats", {})


@pytest.mark.parametrize("name", nightly_except({*NAMES} - LONG, NAMES))
def test_takes_other_images_other_parameters_and_no_classes(name):
    height, width, channels = cnn_jax.model_info(name).input_shape
    features, endpoints, variables = initial_shapes(
        name,
        shape=(3, height + 17, width + 8, 4 - channels),
        dtype=jnp.bfloat16,
        fields={"num_classes": 0, "param_dtype": jnp.bfloat16},
    )
    assert "head" not in variables["params"]
    assert features.shape == endpoints["features"].shape
    assert features.shape[0] == 3
    assert dtypes_of(variables["params"]) == {"bfloat16"}
    assert dtypes_of(variables.get("batch_stats")) <= {"float32"}
    assert dtypes_of(features) == {"float32"}
    assert dtypes_of(endpoints) == {"bfloat16"}


@pytest.mark.parametrize("name", nightly_except({*NAMES} - LONG, NAMES))
def test_recomputation_and_space_to_depth_change_no_shape(name):
    assert "remat" in switches(name)
    assert initial_shapes(name, fields=switches(name)) == default_shapes(name)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((224, 224, 3), jnp.float32, "add a batch dimension"),
        ((1, 2, 32, 32, 3), jnp.float32, "expected \\(n, height, width"),
        ((1, 3, 32, 3), jnp.float32, "expected at least"),
        ((1, 32, 32, 3), jnp.uint8, "normalise"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_refuses_input(name, shape, dtype, message):
    with pytest.raises(ValueError, match=message):
        initial_shapes(name, shape=shape, dtype=dtype)


def test_recomputes_the_same_gradient(generator):
    fields = {"stage_sizes": (2, 1), "stage_features": (4, 6), "stem_features": 4}
    x = jnp.asarray(generator.normal(size=(4, 6, 6, 3)), jnp.float32)
    labels = jnp.arange(4)
    models = [
        cnn_jax.create_model("resnet20", remat=remat, **fields)
        for remat in (False, True)
    ]
    key = jax.eval_shape(jax.random.key, 0)
    shapes, again = (jax.eval_shape(model.init, key, x) for model in models)
    assert shapes == again
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(generator.uniform(-1.0, 1.0, leaf.shape), leaf.dtype),
        shapes,
    )

    def step_fn(model):
        def loss_fn(params):
            logits, updates = model.apply(
                {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
            )
            return K.softmax_cross_entropy(logits, labels).mean(), updates

        return jax.value_and_grad(loss_fn, has_aux=True)

    results = [jax.jit(step_fn(model))(variables["params"]) for model in models]
    chex.assert_trees_all_close(*results, rtol=1e-4, atol=1e-5)
    programs = [jax.make_jaxpr(step_fn(model))(variables["params"]) for model in models]
    recomputations = {"checkpoint", "remat", "remat2"}
    assert [
        any(equation.primitive.name in recomputations for equation in program.eqns)
        for program in programs
    ] == [False, True]
