"""The stock networks compute what ours do, on none of our layers and kernels."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnn_jax
from cnn_jax import kernels, layers


class Everything(nn.Module):
    """A network with every layer that has a stock namesake."""

    activation: object = kernels.silu

    @nn.compact
    def __call__(self, x, *, train):
        dense = layers.Dense
        x = layers.ConvNormActivation(
            8,
            3,
            strides=2,
            norm=lambda **fields: layers.BatchNorm(not train, **fields),
            activation=self.activation,
        )(x)
        x = layers.Conv(8, 3, groups=4, padding=((1, 2), 0), dilation=2)(x)
        x = kernels.max_pool(x, 3, strides=2, padding=1)
        x = layers.LayerNorm()(x)
        x = layers.SqueezeExcite(2, dense=dense, activation=self.activation)(x)
        x = layers.StochasticDepth(0.5, deterministic=not train)(x)
        x = self.activation(layers.Dropout(0.5)(x, not train))
        return dense(5)(kernels.global_avg_pool(x))


@pytest.fixture
def stock(load_benchmark):
    return load_benchmark("stock_flax")


IMAGES = (4, 16, 16, 3)


def loss_fn(model, params, batch_stats, images, key):
    """The loss of a batch in train mode, and the statistics after it."""
    logits, updates = model.apply(
        {"params": params, "batch_stats": batch_stats},
        images,
        train=True,
        rngs={"dropout": key},
        mutable=["batch_stats"],
    )
    labels = jnp.arange(len(images))
    return jnp.mean(kernels.softmax_cross_entropy(logits, labels)), updates


def test_every_layer_agrees(stock, generator):
    model, key = Everything(), jax.random.key(0)
    images = generator.normal(size=IMAGES).astype(np.float32)
    shapes = jax.eval_shape(lambda: model.init(key, images, train=False))
    variables = jax.tree.map(
        lambda leaf: generator.uniform(0.1, 0.9, leaf.shape).astype(leaf.dtype), shapes
    )
    arguments = (variables["params"], variables["batch_stats"], images, key)

    def results(model):
        # Gradients are JAX's own of what agrees here, and cost most of the time.
        return jax.jit(
            lambda: (
                loss_fn(model, *arguments),
                model.apply(variables, images, train=False),
            )
        )()

    ours = results(model)
    with stock.stock_flax():
        theirs = results(stock.with_stock_activation(model))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        ours,
        theirs,
    )


def forward(model, shape):
    """Returns what traces a forward pass in train mode, with its loss."""
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(lambda k, x: model.init(k, x, train=False), key, images)
    batch_stats = variables.get("batch_stats", {})
    arguments = (variables["params"], batch_stats, images, key)
    # A function of its own each time: JAX remembers what it traced.
    return lambda: str(jax.make_jaxpr(functools.partial(loss_fn, model))(*arguments))


def check_no_kernel_is_left(stock, model, shape):
    conv = kernels.conv
    ours = forward(model, shape)
    theirs = forward(stock.with_stock_activation(model), shape)
    assert "custom_vjp" in ours()
    with stock.stock_flax():
        assert kernels.conv is not conv
        assert "custom_vjp" not in theirs()
    assert kernels.conv is conv
    assert "custom_vjp" in ours()


def test_no_kernel_of_ours_is_left(stock):
    check_no_kernel_is_left(stock, Everything(), IMAGES)


def test_every_layer_is_a_stock_one(stock, called_modules):
    trace = forward(stock.with_stock_activation(Everything()), IMAGES)
    called_modules.clear()
    with stock.stock_flax():
        trace()
    names = ("Conv", "BatchNorm", "LayerNorm", "Dense", "Dropout")
    assert {getattr(nn, name) for name in names} <= called_modules
    # Stochastic depth and gates have no namesake, yet their insides are stock.
    assert layers.linear.DenseParameters not in called_modules


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet20", "efficientnet_b0", "convnext_tiny", "vgg16_bn", "resnet50"]
)
def test_no_kernel_of_ours_is_left_in_networks(stock, name):
    check_no_kernel_is_left(stock, cnn_jax.create_model(name), (2, 32, 32, 3))
