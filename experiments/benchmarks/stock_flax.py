"""The models of this project on stock `flax.linen` layers, differentiated by JAX.

Our layers have their namesakes' parameters (`cnn_jax.layers`), so a network need not be
written twice: while it is traced inside `stock_flax()`, each of its layers is computed
by the namesake from the same variables, and each function without parameters by Flax's,
optax's or JAX's own. Running variances are Flax's biased ones.

What Flax has no layer for is written as its users write it: squeeze-and-excite as a
mean, two `Dense` and a product, stochastic depth as `Dropout` of whole examples.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cnn_jax import geometry, layers
from cnn_jax import kernels as K


@contextlib.contextmanager
def stock_flax() -> Iterator[None]:
    """Lets networks that are traced meanwhile run on stock layers and functions.

    To be made with `with_stock_activation` before; to be initialised outside.
    """
    with contextlib.ExitStack() as stack:
        for name in K.autodiff.__all__:
            function = _FUNCTIONS.get(name, getattr(K.autodiff, name))
            stack.enter_context(mock.patch.object(K, name, function))
        stack.enter_context(nn.intercept_methods(_intercept))
        yield


def with_stock_activation(model: nn.Module) -> nn.Module:
    """Returns a model whose activation, a field that names a kernel, is Flax's."""
    return model.clone(activation=_stock_activation(model.activation))


def _stock_activation(activation: Callable) -> Callable:
    if isinstance(activation, functools.partial):
        function = _stock_activation(activation.func)
        return functools.partial(function, *activation.args, **activation.keywords)
    # What is no kernel of ours is JAX's already.
    return getattr(K.autodiff, activation.__name__, activation)


def _intercept(next_call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    """Computes the call of one of our layers by its namesake, any other as it is."""
    stock = _LAYERS.get(type(context.module))
    if stock is None or context.method_name != "__call__":
        return next_call(*args, **kwargs)
    return stock(context.module, *args, **kwargs)


def _conv(layer: layers.Conv, x: jax.Array) -> jax.Array:
    sizes = geometry.per_dimension(layer.kernel_size, x.ndim - 2, "kernel_size")
    stock = nn.Conv(
        layer.features,
        sizes,
        strides=layer.strides,
        padding=layer.padding,
        kernel_dilation=layer.dilation,
        feature_group_count=layer.groups,
        use_bias=layer.use_bias,
        dtype=layer.dtype,
        precision=layer.precision,
        parent=None,
    )
    return stock.apply(layer.variables, x)


def _dense(layer: layers.Dense, x: jax.Array) -> jax.Array:
    stock = nn.Dense(
        layer.features, use_bias=layer.use_bias, dtype=layer.dtype, parent=None
    )
    return stock.apply(layer.variables, x)


def _batch_norm(
    layer: layers.BatchNorm,
    x: jax.Array,
    use_running_average: bool | None = None,
) -> jax.Array:
    stock = nn.BatchNorm(
        use_running_average=layer.use_running_average,
        momentum=layer.momentum,
        epsilon=layer.epsilon,
        dtype=layer.dtype,
        axis_name=layer.axis_name,
        parent=None,
    )
    y, updates = stock.apply(
        layer.variables, x, use_running_average, mutable=["batch_stats"]
    )
    if layer.is_mutable_collection("batch_stats"):
        for name, value in updates["batch_stats"].items():
            layer.put_variable("batch_stats", name, value)
    return y


def _layer_norm(layer: layers.LayerNorm, x: jax.Array) -> jax.Array:
    stock = nn.LayerNorm(
        epsilon=layer.epsilon,
        dtype=layer.dtype,
        use_bias=layer.use_bias,
        use_scale=layer.use_scale,
        parent=None,
    )
    return stock.apply(layer.variables, x)


def _squeeze_excite(layer: layers.SqueezeExcite, x: jax.Array) -> jax.Array:
    parameters = layer.variables["params"]
    dtype = getattr(layer.dense, "keywords", {}).get("dtype")

    def dense(name: str, x: jax.Array) -> jax.Array:
        features = parameters[name]["kernel"].shape[-1]
        stock = nn.Dense(features, dtype=dtype, parent=None)
        return stock.apply({"params": parameters[name]}, x)

    means = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)), keepdims=True)
    hidden = _stock_activation(layer.activation)(dense("squeeze", means))
    return x * _stock_activation(layer.gate)(dense("expand", hidden))


def _drop(
    layer: layers.Dropout | layers.StochasticDepth,
    x: jax.Array,
    deterministic: bool | None = None,
) -> jax.Array:
    deterministic = nn.merge_param("deterministic", layer.deterministic, deterministic)
    if deterministic or layer.rate == 0.0:
        return x
    shared = range(1, x.ndim) if isinstance(layer, layers.StochasticDepth) else ()
    stock = nn.Dropout(
        layer.rate, broadcast_dims=tuple(shared), deterministic=False, parent=None
    )
    return stock.apply({}, x, rng=layer.make_rng("dropout"))


_LAYERS: dict[type[nn.Module], Callable] = {
    layers.Conv: _conv,
    layers.Dense: _dense,
    layers.BatchNorm: _batch_norm,
    layers.LayerNorm: _layer_norm,
    layers.SqueezeExcite: _squeeze_excite,
    layers.Dropout: _drop,
    layers.StochasticDepth: _drop,
}


def _max_pool(x, window, *, strides=None, padding="VALID"):
    geometry_ = geometry.Window.resolve(
        x.shape[1:-1],
        window,
        strides=window if strides is None else strides,
        padding=padding,
    )
    return nn.max_pool(x, geometry_.sizes, geometry_.strides, geometry_.padding)


def _softmax_cross_entropy(logits, labels, *, label_smoothing=0.0):
    if label_smoothing or labels.ndim > 1:
        raise ValueError("softmax_cross_entropy: expected integer labels, unsmoothed.")
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


# The other functions are plain lax or `jax.nn` in `kernels.autodiff` already.
_FUNCTIONS: dict[str, Callable] = {
    "max_pool": _max_pool,
    "softmax_cross_entropy": _softmax_cross_entropy,
}
