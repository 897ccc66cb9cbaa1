"""The twins: every kernel as plain `lax`, differentiated by JAX.

Same names, arguments and results as `cnn_jax.kernels`, but no derivative here is ours.
They serve as the reference that the kernels' gradients are proven against, and for
what a hand-written VJP cannot do, such as plain forward mode:

    tangent = jax.jvp(autodiff.conv, (x, w), (dx, dw))[1]

Arguments are resolved but not checked: the kernels are where errors are explained.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.geometry import Padding, Window

__all__ = [
    "avg_pool",
    "avg_pool_grad",
    "batch_norm",
    "batch_norm_inference",
    "conv",
    "conv_bias_grad",
    "conv_filter_grad",
    "conv_input_grad",
    "dense",
    "dropout",
    "global_avg_pool",
    "max_pool",
    "max_pool_grad",
    "relu",
    "sigmoid",
    "silu",
    "softmax_cross_entropy",
    "stochastic_depth",
]

_LETTERS = "DHW"


def conv(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Convolution as one `lax.conv_general_dilated`; see `kernels.conv`.

    Args:
      x: Input `(n, *spatial, c)`, one to three spatial dimensions.
      w: Filters `(*window, c / groups, o)`.
      b: Bias `(o,)` or None.
      strides: Step of the window.
      padding: "SAME", "VALID", an integer, or one entry per dimension.
      dilation: Step inside the window.
      groups: How many groups the channels fall into.
      precision: As in `lax.conv_general_dilated`.

    Returns:
      Output `(n, *spatial, o)`.
    """
    window = Window.resolve(
        x.shape[1:-1],
        w.shape[:-2],
        strides=strides,
        padding=padding,
        dilation=dilation,
    )
    spatial = _LETTERS[-window.rank :]
    y = lax.conv_general_dilated(
        x,
        w,
        window_strides=window.strides,
        padding=window.padding,
        rhs_dilation=window.dilation,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        feature_group_count=groups,
        precision=precision,
    )
    return y if b is None else y + _along_channels(b, y)


def conv_input_grad(
    dy: jax.Array, w: jax.Array, *, input_shape: Sequence[int], **geometry
) -> jax.Array:
    """The transpose of `conv` in x, by `jax.linear_transpose`.

    Args:
      dy: The output's cotangent `(n, *spatial, o)`.
      w: Filters `(*window, c / groups, o)`.
      input_shape: The shape of x.
      **geometry: `conv`'s keywords.

    Returns:
      The input's cotangent, of `input_shape`.
    """
    x = jax.ShapeDtypeStruct(tuple(input_shape), dy.dtype)
    (dx,) = jax.linear_transpose(lambda x: conv(x, w, **geometry), x)(dy)
    return dx


def conv_filter_grad(
    x: jax.Array, dy: jax.Array, *, filter_shape: Sequence[int], **geometry
) -> jax.Array:
    """The transpose of `conv` in w, by `jax.linear_transpose`.

    Args:
      x: Input `(n, *spatial, c)`.
      dy: The output's cotangent `(n, *spatial, o)`.
      filter_shape: The shape of w.
      **geometry: `conv`'s keywords.

    Returns:
      The filters' cotangent, of `filter_shape`.
    """
    w = jax.ShapeDtypeStruct(tuple(filter_shape), dy.dtype)
    (dw,) = jax.linear_transpose(lambda w: conv(x, w, **geometry), w)(dy)
    return dw


def conv_bias_grad(dy: jax.Array) -> jax.Array:
    """The transpose of adding a bias, by `jax.linear_transpose`.

    Args:
      dy: The output's cotangent `(n, *spatial, o)`.

    Returns:
      The bias's cotangent `(o,)`.
    """
    b = jax.ShapeDtypeStruct(dy.shape[-1:], dy.dtype)
    (db,) = jax.linear_transpose(
        lambda b: jnp.broadcast_to(_along_channels(b, dy), dy.shape), b
    )(dy)
    return db


def max_pool(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
) -> jax.Array:
    """Maximum under each placement of a window; see `kernels.max_pool`.

    Args:
      x: Input `(n, *spatial, c)`.
      window: The window's size.
      strides: Step of the window; None means the window's size.
      padding: "SAME", "VALID", an integer, or one entry per dimension.
      dilation: Step inside the window.

    Returns:
      Output `(n, *spatial, c)`.
    """
    geometry = Window.resolve(
        x.shape[1:-1],
        window,
        strides=window if strides is None else strides,
        padding=padding,
        dilation=dilation,
    )
    # Written out, since reduce_window's derivative takes no negative padding.
    x = _pad_spatially(x, geometry, -jnp.inf)
    if any(step > 1 for step in geometry.dilation):
        return _first_maximum(x, geometry)
    return lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        window_dimensions=(1, *geometry.sizes, 1),
        window_strides=(1, *geometry.strides, 1),
        padding="VALID",
    )


def max_pool_grad(
    x: jax.Array, dy: jax.Array, window: int | Sequence[int], **geometry
) -> jax.Array:
    """The VJP of `max_pool` at x, by `jax.vjp`.

    Args:
      x: Input `(n, *spatial, c)`.
      dy: The output's cotangent.
      window: The window's size.
      **geometry: `max_pool`'s keywords.

    Returns:
      The input's cotangent, of x's shape.
    """
    _, pull_back = jax.vjp(lambda x: max_pool(x, window, **geometry), x)
    return pull_back(dy)[0]


def avg_pool(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> jax.Array:
    """Mean under each placement of a window; see `kernels.avg_pool`.

    Args:
      x: Input `(n, *spatial, c)`.
      window: The window's size.
      strides: Step of the window; None means the window's size.
      padding: "SAME", "VALID", an integer, or one entry per dimension.
      count_include_pad: Whether padding counts as elements of value 0.

    Returns:
      Output `(n, *spatial, c)`.
    """
    geometry = Window.resolve(
        x.shape[1:-1],
        window,
        strides=window if strides is None else strides,
        padding=padding,
    )

    def total(x):
        return lax.reduce_window(
            _pad_spatially(x, geometry, 0.0),
            0.0,
            lax.add,
            window_dimensions=(1, *geometry.sizes, 1),
            window_strides=(1, *geometry.strides, 1),
            padding="VALID",
        )

    if count_include_pad:
        return total(x) / math.prod(geometry.sizes)
    # A window that lies in the padding altogether has the mean 0.
    return total(x) / jnp.maximum(total(jnp.ones_like(x)), 1)


def avg_pool_grad(
    dy: jax.Array,
    window: int | Sequence[int],
    *,
    input_shape: Sequence[int],
    **geometry,
) -> jax.Array:
    """The transpose of `avg_pool`, by `jax.linear_transpose`.

    Args:
      dy: The output's cotangent.
      window: The window's size.
      input_shape: The shape of x.
      **geometry: `avg_pool`'s keywords.

    Returns:
      The input's cotangent, of `input_shape`.
    """
    x = jax.ShapeDtypeStruct(tuple(input_shape), dy.dtype)
    (dx,) = jax.linear_transpose(lambda x: avg_pool(x, window, **geometry), x)(dy)
    return dx


def global_avg_pool(x: jax.Array) -> jax.Array:
    """Mean over all spatial positions: `(n, *spatial, c)` to `(n, c)`."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))


def dense(x: jax.Array, w: jax.Array, b: jax.Array | None = None) -> jax.Array:
    """Affine map of the last axis: `(..., i) @ (i, o) + (o,)`."""
    y = lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ())))
    return y if b is None else y + _along_channels(b, y)


def relu(x: jax.Array) -> jax.Array:
    """`max(x, 0)` with derivative 0 at 0: `jax.nn.relu`."""
    return jax.nn.relu(x)


def silu(x: jax.Array) -> jax.Array:
    """`x * sigmoid(x)`."""
    return x * lax.logistic(x)


def sigmoid(x: jax.Array) -> jax.Array:
    """`1 / (1 + exp(-x))`."""
    return lax.logistic(x)


def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    epsilon: float,
    axis_name=None,
    axis_index_groups=None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises each channel by the batch's statistics; see `kernels.batch_norm`.

    Args:
      x: Input `(n, *spatial, c)`.
      scale: `(c,)`.
      bias: `(c,)`.
      epsilon: Added to the variance.
      axis_name: Mapped axis or axes to average the statistics over.
      axis_index_groups: Groups of indices along that axis.

    Returns:
      The output in x's dtype, and the mean and the biased variance `(c,)` in float32
      (float64 for float64 inputs).
    """

    def average(value):
        value = jnp.mean(value, axis=tuple(range(value.ndim - 1)))
        if axis_name is None:
            return value
        return lax.pmean(value, axis_name, axis_index_groups=axis_index_groups)

    wide = x.astype(_statistics_dtype(x))
    mean = average(wide)
    var = average(jnp.square(wide - _along_channels(mean, wide)))
    y = _normalise(wide, mean, var, scale, bias, epsilon)
    return y.astype(x.dtype), mean, var


def batch_norm_inference(
    x: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    epsilon: float,
) -> jax.Array:
    """Normalises each channel by given statistics; see `kernels.batch_norm_inference`.

    Args:
      x: Input `(n, *spatial, c)`.
      mean: `(c,)`.
      var: `(c,)`.
      scale: `(c,)`.
      bias: `(c,)`.
      epsilon: Added to the variance.

    Returns:
      The output in x's shape and dtype.
    """
    wide = x.astype(_statistics_dtype(x))
    return _normalise(wide, mean, var, scale, bias, epsilon).astype(x.dtype)


def dropout(x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Zeroes each element with probability `rate`, scales the rest by 1/(1 - rate)."""
    return _keep(x, key, rate, x.shape)


def stochastic_depth(x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Zeroes each example with probability `rate`, scales the rest by 1/(1 - rate)."""
    return _keep(x, key, rate, x.shape[:1] + (1,) * (x.ndim - 1))


def softmax_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0
) -> jax.Array:
    """Cross-entropy of each example; see `kernels.softmax_cross_entropy`.

    Args:
      logits: `(..., classes)`.
      labels: Integers of shape `(...,)`, or probabilities of logits' shape.
      label_smoothing: The weight of the uniform distribution in the target.

    Returns:
      The loss `(...,)` in float32 (float64 for float64 logits).
    """
    logits = logits.astype(_statistics_dtype(logits))
    num_classes = logits.shape[-1]
    if jnp.issubdtype(labels.dtype, jnp.integer):
        targets = jax.nn.one_hot(labels, num_classes, dtype=logits.dtype)
    else:
        targets = labels.astype(logits.dtype)
    targets = targets * (1.0 - label_smoothing) + label_smoothing / num_classes
    return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)


def _along_channels(vector: jax.Array, like: jax.Array) -> jax.Array:
    """Gives a vector of channels as many axes as `like`."""
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def _pad_spatially(x: jax.Array, window: Window, value: float) -> jax.Array:
    pairs = ((0, 0), *window.padding, (0, 0))
    return lax.pad(
        x, jnp.array(value, x.dtype), tuple((low, high, 0) for low, high in pairs)
    )


def _first_maximum(x: jax.Array, window: Window) -> jax.Array:
    """Maximum over the taps of a dilated window, the first of equals taken.

    JAX has no derivative of a dilated `reduce_window`, so the taps are compared one
    by one, in the order and with the comparison of XLA's select-and-scatter.
    """
    sizes = (x.shape[0], *window.output_sizes, x.shape[-1])
    steps = (1, *window.strides, 1)
    if 0 in sizes:
        return jnp.zeros(sizes, x.dtype)
    best = None
    for tap in itertools.product(*map(range, window.sizes)):
        start = (0, *map(operator.mul, tap, window.dilation), 0)
        limit = [
            first + (size - 1) * step + 1
            for first, size, step in zip(start, sizes, steps, strict=True)
        ]
        value = lax.slice(x, start, limit, steps)
        if best is None:
            best, has_nan = value, jnp.isnan(value)
        else:
            best = jnp.where(best >= value, best, value)
            has_nan |= jnp.isnan(value)
    return best + jnp.where(has_nan, jnp.nan, 0.0).astype(x.dtype)


def _statistics_dtype(x: jax.Array) -> jnp.dtype:
    return jnp.dtype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)


def _normalise(x, mean, var, scale, bias, epsilon):
    mean, var, scale, bias = (
        _along_channels(vector.astype(x.dtype), x)
        for vector in (mean, var, scale, bias)
    )
    return (x - mean) * lax.rsqrt(var + epsilon) * scale + bias


def _keep(x, key, rate, mask_shape):
    if rate == 0.0:
        return x
    mask = jax.random.bernoulli(key, 1.0 - rate, mask_shape)
    return jnp.where(mask, x / (1.0 - rate), jnp.zeros((), x.dtype))
