"""What every model promises, whatever its family; by shapes alone, so in no time."""

import chex
import jax
import jax.numpy as jnp
import pytest

import cnn_jax


def smallest_of_each_family():
    infos = [cnn_jax.model_info(name) for name in cnn_jax.list_models()]
    least = {}
    for info in infos:
        least[info.family] = min(
            info.parameters, least.get(info.family, info.parameters)
        )
    return [info.name for info in infos if info.parameters == least[info.family]]


# Deeper variants are the same code with other numbers; the golden trees have them all.
NAMES = smallest_of_each_family()


def call_shapes(name, *, fields=None, shape=None, dtype=jnp.float32, **arguments):
    """Returns the variables' and the output's shapes and dtypes."""
    model = cnn_jax.create_model(name, **(fields or {}))
    shape = shape or (2, *cnn_jax.model_info(name).input_shape)
    key = jax.eval_shape(jax.random.key, 0)
    x = jax.ShapeDtypeStruct(shape, dtype)

    def initialize(key, x):
        return model.init(key, x, train=False)

    def apply(variables, key, x):
        return model.apply(
            variables, x, rngs={"dropout": key}, mutable=["batch_stats"], **arguments
        )

    variables = jax.eval_shape(initialize, key, x)
    output, updates = jax.eval_shape(apply, variables, key, x)
    return variables, output, updates


def test_every_kind_is_among_the_tested():
    assert {
        "lenet5",
        "vgg8_cifar",
        "resnet20",
        "plain20",
        "efficientnet_cifar",
    } <= set(NAMES)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_logits_and_endpoints(name, train):
    variables, (logits, endpoints), updates = call_shapes(
        name, train=train, endpoints=True
    )
    chex.assert_shape(logits, (2, 10))
    assert logits.dtype == jnp.float32
    stages = [key for key in endpoints if key.startswith("stage")]
    assert stages == [f"stage{number}" for number in range(1, len(stages) + 1)]
    assert len(stages) >= 3
    sizes = [endpoints[stage].shape[1] for stage in stages]
    assert sizes == sorted(sizes, reverse=True)
    assert endpoints["features"].ndim == 2
    # A training step maps a state to one of the same shapes and dtypes.
    assert updates.get("batch_stats", {}) == variables.get("batch_stats", {})


@pytest.mark.parametrize("name", NAMES)
def test_features_without_classes(name):
    variables, features, _ = call_shapes(name, fields={"num_classes": 0})
    _, (_, endpoints), _ = call_shapes(name, endpoints=True)
    assert "head" not in variables["params"]
    assert features.shape == endpoints["features"].shape


@pytest.mark.parametrize("name", NAMES)
def test_computes_in_bfloat16_on_float32_parameters(name):
    variables, (logits, endpoints), updates = call_shapes(
        name, fields={"dtype": jnp.bfloat16}, train=True, endpoints=True
    )
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updates))} == {
        jnp.dtype("float32")
    }
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in endpoints.values()} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("name", NAMES)
def test_stores_parameters_in_param_dtype(name):
    variables, logits, _ = call_shapes(
        name, fields={"param_dtype": jnp.bfloat16}, dtype=jnp.bfloat16
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(variables["params"])} == {
        jnp.dtype("bfloat16")
    }
    assert {leaf.dtype for leaf in jax.tree.leaves(variables.get("batch_stats"))} <= {
        jnp.dtype("float32")
    }
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize("name", NAMES)
def test_takes_other_images_and_classes(name):
    channels = 3 if cnn_jax.model_info(name).input_shape[2] == 1 else 1
    _, logits, _ = call_shapes(
        name, fields={"num_classes": 7}, shape=(3, 48, 40, channels)
    )
    chex.assert_shape(logits, (3, 7))


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((32, 32, 3), jnp.float32, "add a batch dimension"),
        ((1, 2, 32, 32, 3), jnp.float32, "expected \\(n, height, width"),
        ((1, 3, 32, 3), jnp.float32, "expected at least"),
        ((1, 32, 32, 3), jnp.uint8, "normalise"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_refuses_input(name, shape, dtype, message):
    with pytest.raises(ValueError, match=message):
        call_shapes(name, shape=shape, dtype=dtype)
