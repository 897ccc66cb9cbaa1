r"""Local response normalisation, and its gradient derived by hand.

Each channel is divided by a power of the energy of its neighbours: with N(i) the
channels from i - size // 2 to i + (size - 1) // 2 that exist,

    s_i = k + alpha sum_{j in N(i)} x_j^2,        y_i = x_i s_i^-beta.

x_i is in its own bracket and in those of its neighbours, so

    dx_i = dy_i s_i^-beta - 2 alpha beta x_i sum_{j : i in N(j)} dy_j x_j s_j^(-beta-1).

The last sum runs over the same window turned around. Only x is saved: the brackets are
a few multiplications away from it.

Powers are the cost of this on a CPU. The paper's s^-3/4 is r sqrt(r) with r = s^-1/2,
cheaper than a power, and any other is an exponential of the logarithm. On a
TPU it is the window: channels are a register's lanes, and to multiply by a matrix of
zeros and ones takes less than to shift them.

Source: Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep
Convolutional Neural Networks", 2012, section 3.3.
"""

from __future__ import annotations

import functools
import math
import numbers

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.geometry import is_integer
from cnn_jax.kernels import autodiff
from cnn_jax.kernels.kernel import custom_vjp, kernel
from cnn_jax.kernels.operands import require_floating, widen


@kernel(autodiff.local_response_norm)
def local_response_norm(
    x: jax.Array,
    *,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
) -> jax.Array:
    """Divides each channel by the energy of its neighbours.

    y = x s^-beta with s = k + alpha * (sum of x^2 over `size` channels);
    dx = dy s^-beta - 2 alpha beta x W^T(dy x s^(-beta-1)), W the sum over the window.

    Args:
      x: Input `(..., c)`.
      size: The number of neighbouring channels, the channel itself included.
      alpha: The weight of their energy, the sum of their squares, as in the paper and
        in TensorFlow. PyTorch and Caffe take the mean: their alpha is `size` times
        ours.
      beta: The exponent.
      k: The bracket of a channel without energy, as many are after a relu: positive,
        since a bracket of 0 has no inverse.

    Returns:
      The shape and dtype of x, computed in float32 or wider.

    Raises:
      ValueError: If x is a scalar or not floating-point, `size` is not a positive
        integer, an option is no finite number, or `k` or `alpha` makes the bracket 0.

    A channel that is not finite has the value NaN, and its neighbours 0 beside an
    infinity, NaN beside NaN. Its gradient and theirs are NaN, and beside NaN those of
    their neighbours. (On a TPU, which multiplies the channels further off by zeros, all
    are NaN.)
    """
    x = jnp.asarray(x)
    if x.ndim < 1:
        raise ValueError("local_response_norm: got a scalar x, expected (..., c).")
    require_floating("local_response_norm", x=x)
    if not is_integer(size) or size < 1:
        raise ValueError(
            f"local_response_norm: got size {size!r}, expected a positive integer."
        )
    if not all(map(_is_finite, (alpha, beta, k))) or not (k > 0 and alpha >= 0):
        raise ValueError(
            f"local_response_norm: got k {k}, alpha {alpha} and beta {beta}, expected "
            "finite numbers with k > 0 and alpha >= 0."
        )
    return _local_response_norm(x, size, float(alpha), float(beta), float(k))


def _is_finite(value) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)


@functools.partial(custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _local_response_norm(x, size, alpha, beta, k):
    return _local_response_norm_fwd(x, size, alpha, beta, k)[0]


def _local_response_norm_fwd(x, size, alpha, beta, k):
    wide = widen(x)
    y = wide * _power(_bracket(wide, size, alpha, k), -beta)
    return y.astype(x.dtype), x


def _local_response_norm_bwd(size, alpha, beta, k, x, dy):
    wide, wide_dy = widen(x), widen(dy)
    s = _bracket(wide, size, alpha, k)
    shares = wide_dy * wide * _power(s, -beta - 1.0)
    shared = _window_sum(shares, (size - 1) // 2, size // 2)
    dx = wide_dy * _power(s, -beta) - 2.0 * alpha * beta * wide * shared
    return (dx.astype(x.dtype),)


_local_response_norm.defvjp(_local_response_norm_fwd, _local_response_norm_bwd)


def _bracket(x, size, alpha, k):
    return k + alpha * _window_sum(x * x, size // 2, (size - 1) // 2)


def _power(s, exponent):
    """Returns s^exponent for s > 0."""
    if exponent == -0.75:
        root = lax.rsqrt(s)
        return root * lax.sqrt(root)
    return jnp.exp(exponent * jnp.log(s))


def _window_sum(x, before, after):
    """Sums each channel with those `before` and `after` it."""
    window = {"before": before, "after": after}
    return lax.platform_dependent(
        x,
        tpu=functools.partial(_banded_product, **window),
        default=functools.partial(_sum_of_shifts, **window),
    )


def _banded_product(x, *, before, after):
    channels = np.arange(x.shape[-1])
    offset = channels[:, None] - channels
    band = (-before <= offset) & (offset <= after)
    return jnp.matmul(x, jnp.asarray(band, x.dtype), precision=lax.Precision.HIGHEST)


def _sum_of_shifts(x, *, before, after):
    channels = x.shape[-1]
    padded = jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((before, after),))
    return sum(
        padded[..., first : first + channels] for first in range(before + after + 1)
    )
