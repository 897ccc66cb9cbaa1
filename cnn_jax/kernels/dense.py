"""The dense (fully connected) layer's product."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cnn_jax.geometry import layout_hint
from cnn_jax.kernels import autodiff
from cnn_jax.kernels.bias import add_bias
from cnn_jax.kernels.kernel import custom_vjp, kernel
from cnn_jax.kernels.operands import align_manual_axes, require_floating, to_array


@kernel(autodiff.dense)
def dense(x: jax.Array, w: jax.Array, b: jax.Array | None = None) -> jax.Array:
    """Multiplies the last axis of `x` by `w` and adds `b`.

    With y = x w + b, every row of x is multiplied by the same w, so

        dx = dy w^T,    dw = sum over rows of x^T dy,    db = sum over rows of dy.

    Args:
      x: Input `(..., in)`, at least two dimensions.
      w: Weights `(in, out)`.
      b: Bias `(out,)`, or None.

    Returns:
      `(..., out)` in the operands' dtype.

    Raises:
      ValueError: If shapes or dtypes do not fit together.
    """
    x, w = jnp.asarray(x), jnp.asarray(w)
    b = to_array(b)
    if x.ndim < 2 or w.ndim != 2 or x.shape[-1] != w.shape[0]:
        raise ValueError(
            f"dense: got x {x.shape} and w {w.shape}, expected (..., in) and (in, out)"
            f"{_hint(x.shape, w.shape, None if b is None else b.shape)}."
        )
    if b is not None and b.shape != w.shape[1:]:
        raise ValueError(f"dense: got b {b.shape}, expected {w.shape[1:]}.")
    require_floating("dense", x=x, w=w, b=b)
    return add_bias(_dense(*align_manual_axes(x, w)), b)


def _hint(x_shape, w_shape, b_shape):
    """Says which operand to transpose, if then all three fit together."""
    if len(x_shape) < 2 or len(w_shape) != 2:
        return ""
    if x_shape[-1] == w_shape[1] and b_shape in (None, w_shape[:1]):
        return "; w looks like (out, in): w.T"
    if b_shape not in (None, w_shape[1:]):
        return ""
    return layout_hint(x_shape, w_shape[0])


@custom_vjp
def _dense(x, w):
    return jnp.matmul(x, w)


def _dense_fwd(x, w):
    return jnp.matmul(x, w), (x, w)


def _dense_bwd(residuals, dy):
    x, w = residuals
    rows = tuple(range(x.ndim - 1))
    return jnp.matmul(dy, w.T), jnp.tensordot(x, dy, axes=(rows, rows))


_dense.defvjp(_dense_fwd, _dense_bwd)
