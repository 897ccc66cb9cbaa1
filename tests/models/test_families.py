"""Each family's arithmetic, against the network written out in plain lax and NumPy."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.quick import slow_except

import cnn_jax
from cnn_jax.layers import abstract_variables
from cnn_jax.models.efficientnet import Stage

SMALL_STAGES = (
    Stage(8, 1, expansion=1, kernel_size=3, strides=1),
    Stage(12, 1, expansion=2, kernel_size=5, strides=2),
)
CIFAR_STAGES = {"stage_sizes": (1, 1), "stage_features": (4, 7), "stem_features": 4}
SMALL = {
    "lenet5": {},
    "vgg8_cifar": {
        "stages": ((4, 6), (8,)),
        "pooled_size": 3,
        "hidden_features": (10,),
    },
    "resnet20": CIFAR_STAGES,
    "plain20": CIFAR_STAGES,
    "efficientnet_cifar": {
        "stages": SMALL_STAGES,
        "stem_features": 8,
        "head_features": 16,
    },
    "efficientnet_lite0": {
        "stages": SMALL_STAGES,
        "stem_features": 8,
        "head_features": 16,
        "num_classes": 10,
    },
}


def conv(x, w, strides=1, padding=None, groups=1):
    if padding is None:
        padding = [((size - 1) // 2,) * 2 for size in w.shape[:2]]
    return jax.lax.conv_general_dilated(
        x,
        w,
        (strides, strides),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def norm(x, params, stats, train, epsilon=1e-5):
    mean, var = stats["mean"], stats["var"]
    if train:
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    centred = x - mean.reshape(1, 1, 1, -1)
    scale = params["scale"] / jnp.sqrt(var + epsilon)
    return centred * scale.reshape(1, 1, 1, -1) + params["bias"].reshape(1, 1, 1, -1)


def conv_norm(x, params, stats, train, strides=1, groups=1, padding=None, epsilon=1e-5):
    y = conv(x, params["conv"]["kernel"], strides, padding, groups)
    return norm(y, params["norm"], stats["norm"], train, epsilon)


def dense(x, params):
    return x @ params["kernel"] + params["bias"].reshape(1, -1)


def pool(x, reduce):
    n, h, w, c = x.shape
    return reduce(x.reshape(n, h // 2, 2, w // 2, 2, c), (2, 4))


def relu(x):
    return jnp.maximum(x, 0.0)


def relu6(x):
    return jnp.clip(x, 0.0, 6.0)


def silu(x):
    return x / (1.0 + jnp.exp(-x))


def lenet5(params, stats, x, train):
    for name in ("c1", "c3"):
        x = conv(x, params[name]["kernel"], padding="VALID")
        x = pool(jnp.tanh(x + params[name]["bias"].reshape(1, 1, 1, -1)), jnp.mean)
    x = conv(x, params["c5"]["kernel"], padding="VALID")
    x = jnp.tanh(x + params["c5"]["bias"].reshape(1, 1, 1, -1))[:, 0, 0]
    return dense(jnp.tanh(dense(x, params["f6"])), params["head"])


def vgg8_cifar(params, stats, x, train):
    for stage in (("stage1_conv1", "stage1_conv2"), ("stage2_conv1",)):
        for name in stage:
            x = relu(conv_norm(x, params[name], stats[name], train))
        x = pool(x, jnp.max)
    x = relu(dense(x.reshape(x.shape[0], -1), params["classifier_dense1"]))
    return dense(x, params["head"])


def cifar_resnet(params, stats, x, train, residual):
    x = relu(conv_norm(x, params["stem"], stats["stem"], train))
    for name, strides, front, back in (
        ("stage1_block1", 1, 0, 0),
        ("stage2_block1", 2, 1, 2),
    ):
        p, s = params[name], stats[name]
        y = relu(conv_norm(x, p["conv1"], s["conv1"], train, strides))
        y = conv_norm(y, p["conv2"], s["conv2"], train)
        if residual:
            x = x[:, ::strides, ::strides]
            zeros = [jnp.zeros((*x.shape[:3], count)) for count in (front, back)]
            y = y + jnp.concatenate([zeros[0], x, zeros[1]], axis=-1)
        x = relu(y)
    return dense(x.mean((1, 2)), params["head"])


def efficientnet_cifar(params, stats, x, train):
    x = silu(conv_norm(x, params["stem"], stats["stem"], train))
    for name, strides in (("stage1_block1", 1), ("stage2_block1", 2)):
        p, s, y = params[name], stats[name], x
        if "expand" in p:
            y = silu(conv_norm(y, p["expand"], s["expand"], train))
        y = conv_norm(
            y, p["depthwise"], s["depthwise"], train, strides, groups=y.shape[-1]
        )
        y = silu(y)
        gate = p["squeeze_excite"]
        factors = dense(silu(dense(y.mean((1, 2)), gate["squeeze"])), gate["expand"])
        factors = 1.0 / (1.0 + jnp.exp(-factors))
        y = y * factors.reshape(y.shape[0], 1, 1, -1)
        y = conv_norm(y, p["project"], s["project"], train)
        x = x + y if x.shape == y.shape else y
    x = silu(conv_norm(x, params["last_conv"], stats["last_conv"], train))
    return dense(x.mean((1, 2)), params["head"])


def efficientnet_lite(params, stats, x, train):
    layer = functools.partial(conv_norm, train=train, padding="SAME", epsilon=1e-3)
    x = relu6(layer(x, params["stem"], stats["stem"], strides=2))
    for name, strides in (("stage1_block1", 1), ("stage2_block1", 2)):
        p, s, y = params[name], stats[name], x
        if "expand" in p:
            y = relu6(layer(y, p["expand"], s["expand"]))
        depthwise = functools.partial(layer, strides=strides, groups=y.shape[-1])
        y = relu6(depthwise(y, p["depthwise"], s["depthwise"]))
        y = layer(y, p["project"], s["project"])
        x = x + y if x.shape == y.shape else y
    x = relu6(layer(x, params["last_conv"], stats["last_conv"]))
    return dense(x.mean((1, 2)), params["head"])


REFERENCES = {
    "lenet5": lenet5,
    "vgg8_cifar": vgg8_cifar,
    "resnet20": functools.partial(cifar_resnet, residual=True),
    "plain20": functools.partial(cifar_resnet, residual=False),
    "efficientnet_cifar": efficientnet_cifar,
    "efficientnet_lite0": efficientnet_lite,
}
FIRST_NORMALIZED = {
    "vgg8_cifar": "stage1_conv1",
    "resnet20": "stem",
    "plain20": "stem",
    "efficientnet_cifar": "stem",
    "efficientnet_lite0": "stem",
}
FIRST_CONVOLVED = {"efficientnet_lite0": {"strides": 2, "padding": "SAME"}}
WITHOUT_DROPPING = {
    "vgg8_cifar": {"dropout_rate": 0.0},
    "efficientnet_cifar": {"dropout_rate": 0.0, "stochastic_depth_rate": 0.0},
    "efficientnet_lite0": {"dropout_rate": 0.0, "stochastic_depth_rate": 0.0},
}


def filled_variables(model, x, generator):
    """Numbers under which every block matters and activations keep their size."""

    def fill(path, leaf):
        name = path[-1].key
        if name == "kernel":
            values = (
                generator.normal(size=leaf.shape) * np.prod(leaf.shape[:-1]) ** -0.5
            )
        elif name in ("scale", "var"):
            values = generator.uniform(0.5, 1.5, leaf.shape)
        else:
            values = generator.normal(size=leaf.shape) * 0.3
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, abstract_variables(model, x))


@pytest.mark.parametrize(
    "name", slow_except({*REFERENCES} - {"efficientnet_cifar"}, REFERENCES)
)
def test_equals_the_network_written_out(name, x64, generator):
    model = cnn_jax.create_model(
        name, param_dtype=jnp.float64, **SMALL[name], **WITHOUT_DROPPING.get(name, {})
    )
    size = 32 if name == "lenet5" else 10 if name == "efficientnet_cifar" else 12
    # So that some activations would pass 6 where they are cut off.
    deviation = 30.0 if name == "efficientnet_lite0" else 1.0
    x = jnp.asarray(generator.normal(size=(3, size, size, 2), scale=deviation))
    variables = filled_variables(model, x, generator)
    params, stats = variables["params"], variables.get("batch_stats", {})
    weights = jnp.asarray(generator.normal(size=(3, 10)))
    first = FIRST_NORMALIZED.get(name)

    def ours(params, x, train):
        variables = {"params": params, "batch_stats": stats}
        logits, updates = model.apply(
            variables, x, train=train, mutable=["batch_stats"]
        )
        return logits, updates["batch_stats"][first]["norm"] if first else {}

    def theirs(params, x, train):
        updates = {}
        if first:
            filters = params[first]["conv"]["kernel"]
            y = conv(x, filters, **FIRST_CONVOLVED.get(name, {}))
            old = stats[first]["norm"]
            updates["mean"] = 0.9 * old["mean"] + 0.1 * y.mean((0, 1, 2))
            var = y.var((0, 1, 2), ddof=1)
            updates["var"] = 0.9 * old["var"] + 0.1 * var
        return REFERENCES[name](params, stats, x, train), updates

    def loss_and_logits(function, params, x):
        logits, updates = function(params, x, train=True)
        inferred, _ = function(params, x, train=False)
        return (logits * weights).sum(), (logits, inferred, updates)

    results = [
        jax.jit(
            jax.value_and_grad(
                functools.partial(loss_and_logits, function),
                argnums=(0, 1),
                has_aux=True,
            ),
        )(params, x)
        for function in (ours, theirs)
    ]
    chex.assert_trees_all_close(*results, rtol=1e-9, atol=1e-10)
    for path, gradient in jax.tree_util.tree_leaves_with_path(results[0][1][0]):
        assert np.abs(gradient).max() > 1e-9 or path[-1].key == "bias", path


@pytest.mark.parametrize("name", ["vgg8_cifar", "efficientnet_cifar"])
def test_drops_by_the_key(name, generator):
    model = cnn_jax.create_model(name, **SMALL[name])
    x = jnp.asarray(generator.normal(size=(4, 8, 8, 3)), jnp.float32)
    variables = filled_variables(model, x, generator)

    @jax.jit
    def train_logits(key):
        return model.apply(
            variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
        )[0]

    first, again, other = map(train_logits, map(jax.random.key, (0, 0, 1)))
    chex.assert_trees_all_equal(first, again)
    assert not np.allclose(first, other)


def test_stochastic_depth_grows_from_zero_to_the_last_block():
    info = cnn_jax.model_info("efficientnet_cifar")
    model = cnn_jax.create_model("efficientnet_cifar", stochastic_depth_rate=0.5)
    rates = {}

    def record(next_fn, args, kwargs, context):
        if type(context.module).__name__ == "StochasticDepth":
            rates[context.module.path[0]] = context.module.rate
        return next_fn(*args, **kwargs)

    x = jax.ShapeDtypeStruct((1, *info.input_shape), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(model.init, jax.eval_shape(jax.random.key, 0), x)
    # Ten blocks, of which those that begin stages 2 to 4 have no shortcut to drop to.
    assert rates == {
        "stage1_block1": pytest.approx(0.0),
        "stage2_block2": pytest.approx(0.1),
        "stage2_block3": pytest.approx(0.15),
        "stage3_block2": pytest.approx(0.25),
        "stage3_block3": pytest.approx(0.3),
        "stage4_block2": pytest.approx(0.4),
        "stage4_block3": pytest.approx(0.45),
    }
