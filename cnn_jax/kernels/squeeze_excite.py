r"""Squeeze-and-excite, and its gradient derived by hand.

For each example, with P positions p and channels c, activation f and gate k:

    s_c = mean over p of x_pc,      a = s W1 + b1,    h = f(a),
    y_pc = x_pc g_c,                q = h W2 + b2,    g = k(q).

x reaches y twice: directly, where it is scaled by g, and through the gate. The backward
pass forms the gate's cotangent first, since it sums over every position,

    dg_c = sum over p of dy_pc x_pc,

and passes the two small layers like any others, sums running over the examples:

    dq = k'(q) dg,    dW2 = sum h^T dq,    db2 = sum dq,    dh = dq W2^T,
    da = f'(a) dh,    dW1 = sum s^T da,    db1 = sum da,    ds = da W1^T.

Each position has 1 / P of its channel's mean, so both ways together, in one pass,

    dx_pc = dy_pc g_c + ds_c / P.

Of x's size only x itself is saved, beside s, q `(n, c)` and the parameters: g = k(q)
and k'(q) are elementwise in q, and a is one small product of s.

Source: Hu, Shen and Sun, "Squeeze-and-Excitation Networks", 2017.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cnn_jax.geometry import layout_hint
from cnn_jax.kernels import autodiff
from cnn_jax.kernels.activation import relu, sigmoid
from cnn_jax.kernels.activation.fused import FUSED, require_fused
from cnn_jax.kernels.kernel import custom_vjp, kernel
from cnn_jax.kernels.operands import (
    accumulation_dtype,
    align_manual_axes,
    require_floating,
)


@kernel(autodiff.squeeze_excite)
def squeeze_excite(
    x: jax.Array,
    squeeze_w: jax.Array,
    squeeze_b: jax.Array,
    expand_w: jax.Array,
    expand_b: jax.Array,
    *,
    activation: Callable[[jax.Array], jax.Array] = relu,
    gate: Callable[[jax.Array], jax.Array] = sigmoid,
) -> jax.Array:
    """Scales each channel by a gate computed from all channels' means.

    y = x g with g = gate(activation(s squeeze_w + squeeze_b) expand_w + expand_b) and
    s the means over positions. dx = dy g + ds / positions, where ds comes from
    dg = sum over positions of dy x through the two layers; see the module.

    Args:
      x: Input `(n, *spatial, c)`, one to three spatial dimensions, none empty.
      squeeze_w: Weights `(c, m)`.
      squeeze_b: Bias `(m,)`.
      expand_w: Weights `(m, c)`.
      expand_b: Bias `(c,)`.
      activation: Between the two layers, one of the kernels in
        `kernels.activation.fused.FUSED`.
      gate: Maps the second layer's output to the factors, likewise.

    Returns:
      The shape and dtype of `x`. Sums and products of matrices accumulate in float32 or
      wider; the means and the layers' outputs are rounded to x's dtype.

    Raises:
      ValueError: If shapes or dtypes do not fit together, or activation or gate is none
        of those.
    """
    x = jnp.asarray(x)
    parameters = tuple(
        jnp.asarray(parameter)
        for parameter in (squeeze_w, squeeze_b, expand_w, expand_b)
    )
    names = ("squeeze_w", "squeeze_b", "expand_w", "expand_b")
    named = dict(zip(names, parameters, strict=True))
    _require_shapes(x, **named)
    require_floating("squeeze_excite", x=x, **named)
    require_fused("squeeze_excite", activation=activation, gate=gate)
    return _squeeze_excite(*align_manual_axes(x, *parameters), activation, gate)


@functools.partial(custom_vjp, nondiff_argnums=(5, 6))
def _squeeze_excite(x, squeeze_w, squeeze_b, expand_w, expand_b, activation, gate):
    return _squeeze_excite_fwd(
        x, squeeze_w, squeeze_b, expand_w, expand_b, activation, gate
    )[0]


def _squeeze_excite_fwd(x, squeeze_w, squeeze_b, expand_w, expand_b, activation, gate):
    wide = accumulation_dtype(x.dtype)
    s = jnp.mean(x.astype(wide), axis=_positions(x)).astype(x.dtype)
    _, h = _squeezed(s, squeeze_w, squeeze_b, activation)
    q = _layer(h, expand_w, expand_b)
    g = FUSED[gate].value(q.astype(wide))
    y = (x.astype(wide) * _at_every_position(g, x)).astype(x.dtype)
    return y, (x, s, q, squeeze_w, squeeze_b, expand_w)


def _squeeze_excite_bwd(activation, gate, residuals, dy):
    x, s, q, squeeze_w, squeeze_b, expand_w = residuals
    dtype, wide = x.dtype, accumulation_dtype(x.dtype)
    wide_dy, wide_q = dy.astype(wide), q.astype(wide)
    a, h = _squeezed(s, squeeze_w, squeeze_b, activation)

    dg = jnp.sum(wide_dy * x.astype(wide), axis=_positions(x))
    dq = FUSED[gate].pull_back(wide_q, dg)
    dh = _product(dq.astype(dtype), expand_w.T)
    da = FUSED[activation].pull_back(a, dh)
    ds = _product(da.astype(dtype), squeeze_w.T)

    g = FUSED[gate].value(wide_q)
    share = ds / float(math.prod(x.shape[1:-1]))
    dx = wide_dy * _at_every_position(g, x) + _at_every_position(share, x)
    gradients = (
        dx,
        _product(s.T, da.astype(dtype)),
        jnp.sum(da, axis=0),
        _product(h.T, dq.astype(dtype)),
        jnp.sum(dq, axis=0),
    )
    return tuple(gradient.astype(dtype) for gradient in gradients)


_squeeze_excite.defvjp(_squeeze_excite_fwd, _squeeze_excite_bwd)


def _squeezed(s, w, b, activation):
    a = _layer(s, w, b).astype(accumulation_dtype(s.dtype))
    return a, FUSED[activation].value(a).astype(s.dtype)


def _layer(rows, w, b):
    # Rounded here as `dense` would, so that both passes see the same numbers.
    product = _product(rows, w)
    return (product + b.astype(product.dtype).reshape(1, -1)).astype(rows.dtype)


def _product(left, right):
    wide = accumulation_dtype(left.dtype)
    return jnp.matmul(left, right, preferred_element_type=wide)


def _positions(x):
    return tuple(range(1, x.ndim - 1))


def _at_every_position(rows, x):
    batch, channels = rows.shape
    return rows.reshape(batch, *(1,) * (x.ndim - 2), channels)


def _require_shapes(x, **parameters):
    if not 3 <= x.ndim <= 5 or 0 in x.shape[1:-1]:
        raise ValueError(
            f"squeeze_excite: got x {x.shape}, expected (n, *spatial, c) with one to "
            "three spatial dimensions, none empty."
        )
    got = {name: parameter.shape for name, parameter in parameters.items()}
    squeezed = got["squeeze_w"][-1:]

    def fits(shape):
        expected = {
            "squeeze_w": (*shape[-1:], *squeezed),
            "squeeze_b": squeezed,
            "expand_w": (*squeezed, *shape[-1:]),
            "expand_b": shape[-1:],
        }
        is_empty = 0 in shape[1:-1]
        return got == expected and len(got["squeeze_w"]) == 2 and not is_empty

    if not fits(x.shape):
        channels = x.shape[-1]
        described = ", ".join(f"{name} {shape}" for name, shape in got.items())
        of_weights = got["squeeze_w"][0] if got["squeeze_w"] else 0
        raise ValueError(
            f"squeeze_excite: got {described} for x {x.shape}, expected weights "
            f"({channels}, m) and (m, {channels}), biases (m,) and ({channels},)"
            f"{layout_hint(x.shape, of_weights, fits=fits)}."
        )
