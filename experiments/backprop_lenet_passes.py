"""LeNet-5 forward and back by hand, and the same by `jax.grad`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cnn_jax import kernels as K

Tree = Any
"""Parameters or gradients by layer, those of `cnn_jax.models.lenet`."""

LAYERS = (
    ("c1", "conv"),
    ("c1 tanh", "tanh"),
    ("s2", "pool"),
    ("c3", "conv"),
    ("c3 tanh", "tanh"),
    ("s4", "pool"),
    ("c5", "conv"),
    ("c5 tanh", "tanh"),
    ("mean", "mean"),
    ("f6", "dense"),
    ("f6 tanh", "tanh"),
    ("head", "dense"),
)
"""Names and kinds of the layers, those of `cnn_jax.models.lenet`."""


def by_hand(params: Tree, x: jax.Array, labels: jax.Array) -> tuple[Any, ...]:
    """Goes forward, keeps what each layer needs, and comes back from the loss.

    Returns:
      The loss; the output of each layer and the gradient by it; the gradient of each
      parameter; the gradient by the images.
    """
    values, inputs = {}, {}
    value = x
    for name, kind in LAYERS:
        inputs[name] = value
        value = values[name] = _forward(kind, params.get(name), value, K)
    losses, pull_back = jax.vjp(lambda z: K.softmax_cross_entropy(z, labels), value)
    (dy,) = pull_back(jnp.full_like(losses, 1 / len(losses)))
    flow, grads = {}, {}
    for name, kind in reversed(LAYERS):
        flow[name] = dy
        dy, own = _backward(kind, params.get(name), inputs[name], values[name], dy)
        if own:
            grads[name] = own
    return losses.mean(), (values, flow), grads, dy


def _forward(kind: str, layer: Tree, x: jax.Array, kernels: Any) -> jax.Array:
    if kind == "conv":
        return kernels.conv(x, layer["kernel"], layer["bias"], padding="VALID")
    if kind == "dense":
        return kernels.dense(x, layer["kernel"], layer["bias"])
    if kind == "pool":
        return kernels.avg_pool(x, 2)
    return kernels.global_avg_pool(x) if kind == "mean" else jnp.tanh(x)


def _backward(
    kind: str, layer: Tree, x: jax.Array, y: jax.Array, dy: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the gradient by a layer's input, and those of its parameters."""
    if kind == "conv":
        w = layer["kernel"]
        dx = K.conv_input_grad(dy, w, input_shape=x.shape, padding="VALID")
        dw = K.conv_filter_grad(x, dy, filter_shape=w.shape, padding="VALID")
        return dx, {"kernel": dw, "bias": K.conv_bias_grad(dy)}
    if kind == "dense":
        dx, dw, db = jax.vjp(K.dense, x, layer["kernel"], layer["bias"])[1](dy)
        return dx, {"kernel": dw, "bias": db}
    if kind == "pool":
        return K.avg_pool_grad(dy, 2, input_shape=x.shape), {}
    if kind == "mean":
        return jax.vjp(K.global_avg_pool, x)[1](dy)[0], {}
    return dy * (1 - y**2), {}


def by_jax(model: Any) -> Callable[..., Any]:
    """Returns what `jax.grad` says of the same network in plain lax, and of `model`."""

    def gradients(params: Tree, x: jax.Array, labels: jax.Array) -> tuple[Any, ...]:
        def lax_loss(params: Tree, x: jax.Array, added: Tree) -> Any:
            for name, kind in LAYERS:
                x = _forward(kind, params.get(name), x, K.autodiff)
                x = x + added[name] if name in added else x
            return K.autodiff.softmax_cross_entropy(x, labels).mean()

        def model_loss(params: Tree) -> jax.Array:
            logits = model.apply({"params": params}, x)
            return K.softmax_cross_entropy(logits, labels).mean()

        # The gradient by zeros added to an output is that by the output.
        shapes = jax.eval_shape(by_hand, params, x, labels)[1][0]
        zeros = {name: jnp.zeros(s.shape, s.dtype) for name, s in shapes.items()}
        return (
            *jax.grad(lax_loss, argnums=(0, 1, 2))(params, x, zeros),
            jax.grad(model_loss)(params),
        )

    return gradients
