"""Squeeze-and-excite and its gradients, example by example."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from cnn_jax.kernels.textbook.activation import named_like, relu, sigmoid
from cnn_jax.kernels.textbook.loops import float64, positions


def squeeze_excite(
    x: np.ndarray,
    squeeze_w: np.ndarray,
    squeeze_b: np.ndarray,
    expand_w: np.ndarray,
    expand_b: np.ndarray,
    *,
    activation: Callable[..., object] = relu,
    gate: Callable[..., object] = sigmoid,
) -> np.ndarray:
    """y[n, p, c] = x[n, p, c] g[n, c], where g depends on all channels' means.

    With s the means over the P positions:

        a = s squeeze_w + squeeze_b,    h = activation(a),
        q = h expand_w + expand_b,      g = gate(q).
    """
    x = float64(x)
    y = np.zeros(x.shape)
    for n, example in enumerate(x):
        *_, q = _layers(example, squeeze_w, squeeze_b, expand_w, expand_b, activation)
        g = named_like(gate)[0](q)
        for p in positions(example.shape[:-1]):
            y[n, *p] = example[p] * g
    return y


def squeeze_excite_grad(
    x: np.ndarray,
    squeeze_w: np.ndarray,
    squeeze_b: np.ndarray,
    expand_w: np.ndarray,
    expand_b: np.ndarray,
    dy: np.ndarray,
    *,
    activation: Callable[..., object] = relu,
    gate: Callable[..., object] = sigmoid,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns (dx, dsqueeze_w, dsqueeze_b, dexpand_w, dexpand_b).

    An example's gate scales all its positions, and all examples share the parameters:

        dg = sum over p of dy[p] x[p]
        dq = gate'(q) dg            dexpand_w += h^T dq     dexpand_b += dq
        da = activation'(a) dh      dsqueeze_w += s^T da    dsqueeze_b += da

    with dh = dq expand_w^T. x[p] is scaled by g and is 1 / P of s, whose cotangent is
    ds = da squeeze_w^T:

        dx[p] = dy[p] g + ds / P.
    """
    x, squeeze_w, expand_w, dy = float64(x, squeeze_w, expand_w, dy)
    gate_value, gate_grad = named_like(gate)
    _, activation_grad = named_like(activation)
    dx = np.zeros(x.shape)
    dsqueeze_w, dexpand_w = np.zeros(squeeze_w.shape), np.zeros(expand_w.shape)
    dsqueeze_b, dexpand_b = np.zeros(squeeze_w.shape[1]), np.zeros(expand_w.shape[1])
    for n, example in enumerate(x):
        places = positions(example.shape[:-1])
        s, a, h, q = _layers(
            example, squeeze_w, squeeze_b, expand_w, expand_b, activation
        )
        g = gate_value(q)
        dq = gate_grad(q, sum(dy[n, *p] * example[p] for p in places))
        da = activation_grad(a, expand_w @ dq)
        ds = squeeze_w @ da
        dexpand_w += np.outer(h, dq)
        dexpand_b += dq
        dsqueeze_w += np.outer(s, da)
        dsqueeze_b += da
        for p in places:
            dx[n, *p] = dy[n, *p] * g + ds / len(places)
    return dx, dsqueeze_w, dsqueeze_b, dexpand_w, dexpand_b


def _layers(example, squeeze_w, squeeze_b, expand_w, expand_b, activation):
    """Returns s, a, h and q of one example."""
    squeeze_w, squeeze_b, expand_w, expand_b = float64(
        squeeze_w, squeeze_b, expand_w, expand_b
    )
    places = positions(example.shape[:-1])
    s = sum(example[p] for p in places) / math.prod(example.shape[:-1])
    a = s @ squeeze_w + squeeze_b
    h = named_like(activation)[0](a)
    return s, a, h, h @ expand_w + expand_b
