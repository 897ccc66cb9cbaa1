"""Grad-CAM by finite differences; guided backpropagation written out by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnn_jax
from cnn_jax import kernels as K
from cnn_jax.analysis.saliency import grad_cam, guided_backpropagation
from cnn_jax.kernels.activation.guided import guided_gradients
from cnn_jax.layers import abstract_variables

# The module whose output each endpoint is.
MODULES = {"stem": "stem", "stage1": "stage1_block1", "stage2": "stage2_block1"}


def shifted_logits(model, variables, images, module, shift):
    """Returns the logits, a shift being added to what one module puts out."""

    def intercept(next_fn, args, kwargs, context):
        output = next_fn(*args, **kwargs)
        return output + shift if context.module.path == (module,) else output

    with nn.intercept_methods(intercept):
        return model.apply(variables, images, train=False)


def grad_cam_by_differences(model, variables, images, endpoint, classes):
    """Grad-CAM from values of the network alone."""
    _, endpoints = model.apply(variables, images, train=False, endpoints=True)
    activations = np.asarray(endpoints[endpoint])
    _, height, width, channels = activations.shape
    logits = jax.jit(
        lambda shift: shifted_logits(model, variables, images, MODULES[endpoint], shift)
    )
    step, maps = 1e-4, 0.0
    for channel in range(channels):
        # The mean of a gradient is the slope along a shift of all positions at once.
        shift = np.zeros((1, 1, 1, channels))
        shift[..., channel] = step / (height * width)
        difference = np.asarray(logits(shift) - logits(-shift))
        weights = difference[np.arange(len(images)), classes] / (2 * step)
        maps = maps + weights[:, None, None] * activations[..., channel]
    return np.maximum(maps, 0)


@pytest.mark.parametrize("endpoint", MODULES)
def test_grad_cam_equals_finite_differences(small_network, endpoint):
    classes = np.array([2, 0, 3])
    expected = grad_cam_by_differences(*small_network, endpoint, classes)
    maps = grad_cam(*small_network, endpoint=endpoint, class_index=classes)
    assert maps.dtype == jnp.float64
    assert maps.shape == expected.shape
    # On both sides of the final relu.
    assert 0.02 < np.mean(expected > 0) < 0.98
    np.testing.assert_allclose(maps, expected, rtol=1e-6, atol=1e-8 * expected.max())


def test_classes_and_the_last_endpoint_by_default(small_network):
    model, variables, images = small_network
    # No class is the largest of all images.
    head = variables["params"]["head"]
    logits = np.asarray(model.apply(variables, images))
    head = head | {"bias": head["bias"] - logits.mean(axis=0)}
    variables = variables | {"params": variables["params"] | {"head": head}}
    predicted = np.argmax(logits - logits.mean(axis=0), axis=-1)
    assert len(set(predicted.tolist())) > 1

    default = grad_cam(model, variables, images)
    by_hand, one, each = (
        grad_cam(model, variables, images, endpoint="stage2", class_index=classes)
        for classes in (predicted, 1, np.array([1, 1, 1]))
    )
    np.testing.assert_array_equal(default, by_hand)
    np.testing.assert_array_equal(one, each)
    assert np.abs(one - default).max() > 1e-3


def test_grad_cam_under_jit_and_in_bfloat16(small_network):
    model, variables, images = small_network
    fast = jax.jit(functools.partial(grad_cam, model, endpoint="stage1"))
    expected = grad_cam(*small_network, endpoint="stage1", class_index=2)
    maps = fast(variables, images, class_index=jnp.array(2))
    np.testing.assert_allclose(maps, expected, rtol=1e-9, atol=1e-12)
    narrow = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), variables)
    model = model.clone(dtype=jnp.bfloat16, param_dtype=jnp.float32)
    fast = jax.jit(functools.partial(grad_cam, model, endpoint="stage1", class_index=2))
    maps = fast(narrow, jnp.asarray(images, jnp.float32))
    assert maps.dtype == jnp.float32
    np.testing.assert_allclose(maps, expected, atol=0.25 * expected.max())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"endpoint": "stage3"}, "got 'stage3', expected one of"),
        ({"endpoint": "features"}, r"\(3, 6\), expected \(n, h, w, c\): one of"),
        ({"class_index": 4}, "got 4, expected 0 to 3"),
        ({"class_index": np.array([0, -1, 1])}, r"got \[ 0 -1  1\], expected 0 to 3"),
        ({"class_index": np.array([0, 1])}, r"int64\[2\], expected an integer"),
        ({"class_index": 1.0}, "expected an integer"),
    ],
)
def test_refuses(small_network, options, message):
    with pytest.raises(ValueError, match=message):
        grad_cam(*small_network, **options)


class TwoLayers(nn.Module):
    """Written out once more, backwards, in `two_layers_guided`."""

    activation: object = K.relu
    num_classes: int = 3

    @nn.compact
    def __call__(self, x, *, train=False):
        x = x.reshape(x.shape[0], -1)
        x = self.activation(nn.Dense(7, use_bias=False, name="first")(x))
        x = self.activation(nn.Dense(5, use_bias=False, name="second")(x))
        return nn.Dense(self.num_classes, use_bias=False, name="head")(x)


def two_layers_guided(kernels, images, classes, highest):
    first, second, head = kernels
    z1 = images.reshape(len(images), -1) @ first
    z2 = np.clip(z1, 0, highest) @ second
    dy = head.T[classes]
    dy = np.where((z2 > 0) & (z2 < highest) & (dy > 0), dy, 0) @ second.T
    dy = np.where((z1 > 0) & (z1 < highest) & (dy > 0), dy, 0) @ first.T
    return dy.reshape(images.shape)


@pytest.mark.parametrize(("activation", "highest"), [(K.relu, np.inf), (K.relu6, 6.0)])
def test_guided_backpropagation_by_hand(activation, highest, generator, x64):
    images = generator.normal(size=(4, 2, 2, 3), scale=2)
    kernels = [generator.normal(size=size) for size in ((12, 7), (7, 5), (5, 3))]
    names = ("first", "second", "head")
    variables = {
        "params": {
            name: {"kernel": kernel}
            for name, kernel in zip(names, kernels, strict=True)
        }
    }
    classes = np.array([0, 1, 2, 0])
    expected = two_layers_guided(kernels, images, classes, highest)
    gradient = guided_backpropagation(TwoLayers(activation), variables, images, classes)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-12)
    plain = jax.grad(
        lambda x: jnp.sum(
            TwoLayers(activation).apply(variables, x)[np.arange(4), classes]
        )
    )(images)
    assert np.abs(plain - expected).max() > 0.1


def test_guided_rule_reaches_fused_relus(small_network):
    """Batch normalisation's own relu follows it as the one behind it would."""
    model, variables, images = small_network
    # A function without a kernel is applied outside of the normalisation's.
    separate = model.clone(activation=lambda x: K.relu(x))
    fused, apart = (
        jax.jit(functools.partial(guided_backpropagation, each, class_index=1))(
            variables, images
        )
        for each in (model, separate)
    )
    np.testing.assert_allclose(fused, apart, rtol=1e-9, atol=1e-12)
    plain = jax.jit(jax.grad(lambda x: jnp.sum(model.apply(variables, x)[:, 1])))
    assert np.abs(fused - plain(images)).max() > 1e-3


def test_the_rule_ends_with_its_context(x64):
    def gradient():
        return jax.jit(jax.grad(lambda x: -K.relu(x)))(jnp.array(2.0))

    assert gradient() == -1.0
    with guided_gradients():
        assert gradient() == 0.0
    assert gradient() == -1.0


def test_a_gate_follows_the_rule_too(generator, x64):
    arguments = [
        generator.normal(size=size) for size in ((2, 3, 3, 4), (4, 5), 5, (5, 4), 4)
    ]

    def by_layers(x, squeeze_w, squeeze_b, expand_w, expand_b):
        means = K.global_avg_pool(x)
        hidden = K.relu(K.dense(means, squeeze_w, squeeze_b))
        gates = K.sigmoid(K.dense(hidden, expand_w, expand_b))
        return x * gates[:, None, None, :]

    results = []
    for function in (K.squeeze_excite, by_layers):

        def gradient(*arguments, function=function):
            _, pull_back = jax.vjp(function, *arguments)
            return pull_back(arguments[0] - 0.3)[0]

        with guided_gradients():
            results.append(jax.jit(gradient)(*arguments))
    np.testing.assert_allclose(*results, rtol=1e-10, atol=1e-12)
    assert np.abs(results[0] - jax.jit(gradient)(*arguments)).max() > 1e-3


def test_networks_without_relu_have_nothing_to_guide():
    model, x = (
        cnn_jax.create_model("lenet5"),
        jax.ShapeDtypeStruct((1, 32, 32, 1), "f4"),
    )
    variables = abstract_variables(model, x)
    guided = functools.partial(guided_backpropagation, model, class_index=0)
    with pytest.raises(ValueError, match="got a LeNet5 without the kernels relu or"):
        jax.eval_shape(guided, variables, x)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32])
def test_a_class_of_any_width_is_one_class(generator, dtype):
    class Network(nn.Module):
        def __call__(self, x, *, train=False):
            return jnp.mean(K.relu(x), axis=(1, 2))

    images = jnp.asarray(generator.normal(size=(2, 3, 3, 300)), jnp.float32)
    found = guided_backpropagation(
        Network(), {}, images, class_index=np.asarray([5, 44], dtype)
    )
    # The logit of a class is the mean of one channel, so that the others get nothing.
    used = np.flatnonzero(np.asarray(found).any(axis=(0, 1, 2)))
    assert used.tolist() == [5, 44]
