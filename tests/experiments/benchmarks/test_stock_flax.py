"""The stock networks compute what ours do, on none of our layers and kernels."""

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


def differentiated(model, variables, train=True):
    """Loss, gradients and statistics of a batch."""
    images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    labels = jnp.arange(4)

    def loss_fn(params):
        logits, updates = model.apply(
            {**variables, "params": params},
            images,
            train=train,
            rngs={"dropout": jax.random.key(2)},
            mutable=["batch_stats"],
        )
        losses = kernels.softmax_cross_entropy(logits, labels)
        return jnp.mean(losses), updates

    return jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(variables["params"])


@pytest.mark.parametrize("train", [True, False])
def test_every_layer_agrees(stock, train):
    model = Everything()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False)
    ours = differentiated(model, variables, train)
    with stock.stock_flax():
        theirs = differentiated(stock.with_stock_activation(model), variables, train)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        ours,
        theirs,
    )


def forward(model, size=32):
    """The jaxpr of a forward pass in train mode, with its loss."""
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(lambda k, x: model.init(k, x, train=False), key, images)

    def loss(variables, images, key):
        logits, updates = model.apply(
            variables,
            images,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        labels = jnp.zeros(2, jnp.int32)
        return kernels.softmax_cross_entropy(logits, labels), updates

    return variables, lambda: str(jax.make_jaxpr(loss)(variables, images, key))


@pytest.mark.parametrize("name", ["resnet20", "efficientnet_b0"])
def test_no_kernel_of_ours_is_left(stock, name):
    check_no_kernel_is_left(stock, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_tiny", "vgg16_bn", "resnet50"])
def test_no_kernel_of_ours_is_left_in_others(stock, name):
    check_no_kernel_is_left(stock, name)


def check_no_kernel_is_left(stock, name):
    model = cnn_jax.create_model(name)
    conv = kernels.conv
    _, ours = forward(model)
    _, theirs = forward(stock.with_stock_activation(model))
    assert "custom_vjp" in ours()
    with stock.stock_flax():
        assert kernels.conv is not conv
        assert "custom_vjp" not in theirs()
    assert kernels.conv is conv
    assert "custom_vjp" in ours()
