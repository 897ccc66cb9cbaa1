"""The layers that a network's regularisers become, and that inference has none."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from cnn_jax import create_model
from cnn_jax.layers import BasicBlock, DropBlock, SpatialDropout, StochasticDepth
from cnn_jax.layers import PreactivationBasicBlock as Preactivation

IMAGES = jnp.linspace(-1, 1, 2 * 8 * 8 * 3).reshape(2, 8, 8, 3)
TINY = {"stage_sizes": (1, 1, 2), "stage_features": (4, 4, 4), "stem_features": 4}


def tiny(name, **overrides):
    block = {"resnet20": BasicBlock, "wide_resnet28_10": Preactivation}.get(name)
    block = {} if block is None else {"block": block}
    return create_model(name, **TINY, **block, small_images=True, **overrides)


def called(model, layer):
    """Returns path -> layer for every call of such a layer in training."""
    found = {}

    def watch(next_fn, args, kwargs, context):
        if isinstance(context.module, layer) and context.method_name == "__call__":
            found["/".join(context.module.path)] = context.module
        return next_fn(*args, **kwargs)

    def run(key):
        variables = model.init(key, IMAGES)
        with nn.intercept_methods(watch):
            return model.apply(
                variables,
                IMAGES,
                train=True,
                rngs={"dropout": key},
                mutable=["batch_stats"],
            )

    jax.eval_shape(run, jax.random.key(0))
    return found


def test_stochastic_depth_grows_to_the_last_block():
    layers = called(tiny("resnet20", stochastic_depth_rate=0.4), StochasticDepth)
    rates = {path: layer.rate for path, layer in layers.items()}
    assert rates == pytest.approx(
        {
            f"stage{stage}_block{index}/stochastic_depth": rate
            for stage, index, rate in (
                (1, 1, 0.1),
                (2, 1, 0.2),
                (3, 1, 0.3),
                (3, 2, 0.4),
            )
        }
    )


def test_drop_block_works_on_the_last_two_stages():
    model = tiny("resnet20", drop_block_rate=0.2, drop_block_size=3)
    layers = called(model, DropBlock)
    assert set(layers) == {"stage2_drop1", "stage3_drop1", "stage3_drop2"}
    settings = {(layer.rate, layer.block_size) for layer in layers.values()}
    assert settings == {(0.2, 3)}


def test_spatial_dropout_takes_the_place_of_dropout():
    wide = "wide_resnet28_10"
    layers = called(tiny(wide, spatial_dropout_rate=0.3), SpatialDropout)
    assert [layer.rate for layer in layers.values()] == [0.3] * 4
    with pytest.raises(ValueError, match=r"dropout_rate 0.1 and.*0.3, expected one"):
        called(
            tiny("wide_resnet28_10", spatial_dropout_rate=0.3, dropout_rate=0.1),
            nn.Module,
        )


def test_a_network_without_shortcuts_has_no_branch_to_drop():
    model = create_model("plain20", stochastic_depth_rate=0.1)
    with pytest.raises(ValueError, match="block without shortcut"):
        called(model, StochasticDepth)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("resnet20", {"stochastic_depth_rate": 0.5, "drop_block_rate": 0.3}),
        ("wide_resnet28_10", {"spatial_dropout_rate": 0.5}),
    ],
)
def test_inference_drops_nothing_and_training_something(name, overrides):
    plain, model = tiny(name), tiny(name, **overrides)
    key = jax.random.key(0)
    fast = {"compiler_options": {"xla_backend_optimization_level": 0}}
    variables = jax.jit(plain.init, **fast)(key, IMAGES)
    shapes = jax.eval_shape(model.init, key, IMAGES)
    chex.assert_trees_all_equal_shapes(variables, shapes)

    def infer(each):
        return jax.jit(each.apply, **fast)(variables, IMAGES)

    def train(key):
        return model.apply(
            variables, IMAGES, train=True, rngs={"dropout": key}, mutable="batch_stats"
        )[0]

    chex.assert_trees_all_close(infer(plain), infer(model), rtol=1e-6)
    keys = jax.random.split(key)
    trained = jax.jit(lambda keys: jax.lax.map(train, keys), **fast)(keys)
    assert float(jnp.abs(trained[0] - trained[1]).max()) > 1e-3
