"""Every kernel and its gradient as NumPy loops in float64: to be read, not to be run.

This is the derivation itself: each docstring states the formula, and the loops below
follow its indices. The kernels are proven against these functions.

Notation. `n` counts examples, `o` output positions, `t` taps of the window, `p` input
positions, `i` and `c` channels in and out; positions and taps are tuples with one entry
for each spatial dimension. With stride s, dilation d and the padding `low` in front,
tap t of the window at output position o falls on the input position

    p = o s + t d - low                                                          (1)

which may lie in the padding. A gradient function takes the cotangent `dy` of the
output (the derivative of a loss by y) and returns that of each argument.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from cnn_jax.geometry import Padding, Window

Position = tuple[int, ...]


def conv(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> np.ndarray:
    """y[n, o, c] = b[c] + sum over t, i of x[n, p(o, t), i] w[t, i, c].

    The sum runs over the taps that fall inside the input. With groups, the channels
    are cut into equal runs and run g of c sees run g of i alone.
    """
    x, w = _float64(x, w)
    window = _conv_window(x.shape, w.shape, strides, padding, dilation)
    y = np.zeros((x.shape[0], *window.output_sizes, w.shape[-1]))
    for o, t, p in placements(window):
        for i, c in channel_runs(w, groups):
            y[:, *o, c] += x[:, *p, i] @ w[*t, :, c]
    return y if b is None else y + _float64(b)


def conv_input_grad(
    dy: np.ndarray,
    w: np.ndarray,
    *,
    input_shape: Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> np.ndarray:
    """dx[n, p, i] = sum over (o, t) with p(o, t) = p and c of dy[n, o, c] w[t, i, c].

    y is linear in x with the coefficients w, so every product of the forward sum
    sends its share back: where y gathered from p, dx scatters to p.
    """
    dy, w = _float64(dy, w)
    window = _conv_window(input_shape, w.shape, strides, padding, dilation)
    dx = np.zeros(input_shape)
    for o, t, p in placements(window):
        for i, c in channel_runs(w, groups):
            dx[:, *p, i] += dy[:, *o, c] @ w[*t, :, c].T
    return dx


def conv_filter_grad(
    x: np.ndarray,
    dy: np.ndarray,
    *,
    filter_shape: Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> np.ndarray:
    """dw[t, i, c] = sum over n, o of x[n, p(o, t), i] dy[n, o, c].

    y is linear in w, too: a filter entry is used at every example and position, and
    collects from all of them.
    """
    x, dy = _float64(x, dy)
    window = _conv_window(x.shape, filter_shape, strides, padding, dilation)
    dw = np.zeros(filter_shape)
    for o, t, p in placements(window):
        for i, c in channel_runs(dw, groups):
            dw[*t, :, c] += x[:, *p, i].T @ dy[:, *o, c]
    return dw


def conv_bias_grad(dy: np.ndarray) -> np.ndarray:
    """db[c] = sum over n, o of dy[n, o, c]: the bias was added everywhere."""
    return _sum_to_channels(_float64(dy))


def max_pool(
    x: np.ndarray,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
) -> np.ndarray:
    """y[n, o, c] = max over t of x[n, p(o, t), c], where padding is -inf.

    NaN wins over every number. Nothing but padding gives -inf.
    """
    x = _float64(x)
    geometry = _pool_window(x.shape, window, strides, padding, dilation)
    y = np.full((x.shape[0], *geometry.output_sizes, x.shape[-1]), -np.inf)
    for o, _, p in placements(geometry):
        y[:, *o] = np.maximum(y[:, *o], x[:, *p])
    return y


def max_pool_grad(
    x: np.ndarray,
    dy: np.ndarray,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
) -> np.ndarray:
    """dx[n, p, c] = sum of dy[n, o, c] over the o whose window selected p.

    A window selects by going through its taps in row-major order, padding included as
    -inf, and moving on from the selected value `v` to the next one `u` unless v >= u.
    Of equal maxima it therefore keeps the first. (What this says of NaN is XLA's rule:
    no comparison with NaN holds, so a NaN is selected, and left again for the value
    behind it.) What a window in the padding selected is lost.
    """
    x, dy = _float64(x, dy)
    geometry = _pool_window(x.shape, window, strides, padding, dilation)
    dx = np.zeros(x.shape)
    inside = {(o, t): p for o, t, p in placements(geometry)}
    taps = positions(geometry.sizes)
    for o in positions(geometry.output_sizes):
        padding_value = np.full_like(dy[:, *o], -np.inf)
        values = [
            x[:, *inside[o, t]] if (o, t) in inside else padding_value for t in taps
        ]
        best, selected = values[0], np.zeros(values[0].shape, int)
        for number, value in enumerate(values):
            moves_on = ~(best >= value)
            selected = np.where(moves_on, number, selected)
            best = np.where(moves_on, value, best)
        for number, t in enumerate(taps):
            if (o, t) in inside:
                dx[:, *inside[o, t]] += np.where(selected == number, dy[:, *o], 0.0)
    return dx


def avg_pool(
    x: np.ndarray,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> np.ndarray:
    """y[n, o, c] = 1 / k[o] times the sum over t of x[n, p(o, t), c].

    k[o] is the number of taps, or of those inside the input if `count_include_pad` is
    false (and then 1 where there are none).
    """
    x = _float64(x)
    geometry = _pool_window(x.shape, window, strides, padding, 1)
    y = np.zeros((x.shape[0], *geometry.output_sizes, x.shape[-1]))
    for o, _, p in placements(geometry):
        y[:, *o] += x[:, *p]
    return y / _counts(geometry, count_include_pad)


def avg_pool_grad(
    dy: np.ndarray,
    window: int | Sequence[int],
    *,
    input_shape: Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> np.ndarray:
    """dx[n, p, c] = sum over the (o, t) with p(o, t) = p of dy[n, o, c] / k[o]."""
    geometry = _pool_window(input_shape, window, strides, padding, 1)
    share = _float64(dy) / _counts(geometry, count_include_pad)
    dx = np.zeros(input_shape)
    for o, _, p in placements(geometry):
        dx[:, *p] += share[:, *o]
    return dx


def global_avg_pool(x: np.ndarray) -> np.ndarray:
    """y[n, c] = mean over p of x[n, p, c]."""
    x = _float64(x)
    return x.mean(axis=tuple(range(1, x.ndim - 1)))


def global_avg_pool_grad(dy: np.ndarray, *, input_shape: Sequence[int]) -> np.ndarray:
    """dx[n, p, c] = dy[n, c] / number of positions."""
    n, *sizes, c = input_shape
    share = _float64(dy) / math.prod(sizes)
    return np.broadcast_to(share.reshape(n, *(1 for _ in sizes), c), input_shape)


def dense(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """y[..., c] = b[c] + sum over i of x[..., i] w[i, c]."""
    x, w = _float64(x, w)
    y = x @ w
    return y if b is None else y + _float64(b)


def dense_grad(
    x: np.ndarray, w: np.ndarray, dy: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """With all leading axes as one: dx = dy w^T, dw = x^T dy, db = sum of dy."""
    x, w, dy = _float64(x, w, dy)
    rows, dy_rows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return dy @ w.T, rows.T @ dy_rows, dy_rows.sum(axis=0)


def relu(x: np.ndarray) -> np.ndarray:
    """Elementwise y = max(x, 0)."""
    return np.maximum(_float64(x), 0.0)


def relu_grad(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Passes dx = dy where x > 0, else 0: the derivative at the corner is 0."""
    x, dy = _float64(x, dy)
    return np.where(x > 0, dy, 0.0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Elementwise y = 1 / (1 + exp(-x)), with exponents that cannot overflow."""
    x = _float64(x)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def sigmoid_grad(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Elementwise dx = dy y (1 - y), and 1 - y is the sigmoid of -x."""
    return _float64(dy) * sigmoid(x) * sigmoid(-_float64(x))


def silu(x: np.ndarray) -> np.ndarray:
    """Elementwise y = x sigmoid(x)."""
    return _float64(x) * sigmoid(x)


def silu_grad(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Elementwise dx = dy (f + x f (1 - f)) with f = sigmoid(x): the product rule."""
    x, dy = _float64(x, dy)
    return dy * sigmoid(x) * (1.0 + x * sigmoid(-x))


def batch_norm(
    x: np.ndarray, scale: np.ndarray, bias: np.ndarray, *, epsilon: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each channel, y = scale h + bias with h = (x - mean) / sqrt(var + epsilon).

    mean and var are those over all M examples and positions; var is biased (1 / M).
    """
    x = _float64(x)
    axes = tuple(range(x.ndim - 1))
    mean, var = x.mean(axis=axes), x.var(axis=axes)
    return batch_norm_inference(x, mean, var, scale, bias, epsilon=epsilon), mean, var


def batch_norm_grad(
    x: np.ndarray,
    scale: np.ndarray,
    dy: np.ndarray,
    dmean: np.ndarray,
    dvar: np.ndarray,
    *,
    epsilon: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cotangents (dx, dscale, dbias).

    With r = 1 / sqrt(var + epsilon) and h = (x - mean) r:

        dbias  = sum dy
        dscale = sum dy h

    x reaches the loss along three ways: directly, through the mean and through the
    variance, where d mean / d x = 1 / M and d var / d x = 2 (x - mean) / M. The
    cotangents that arrive at the two statistics are

        at the mean      dmean - scale r sum dy
        at the variance  dvar  - scale r^2 / 2 sum dy h

    (the mean inside the variance adds nothing, for sum (x - mean) = 0), so that

        dx = scale r (dy - (sum dy) / M - h (sum dy h) / M)
             + dmean / M + 2 (x - mean) dvar / M.
    """
    x, scale, dy, dmean, dvar = _float64(x, scale, dy, dmean, dvar)
    axes = tuple(range(x.ndim - 1))
    count = math.prod(x.shape[:-1])
    centred = x - x.mean(axis=axes)
    r = 1.0 / np.sqrt(x.var(axis=axes) + epsilon)
    h = centred * r
    dbias = dy.sum(axis=axes)
    dscale = (dy * h).sum(axis=axes)
    dx = scale * r * (dy - dbias / count - h * dscale / count)
    dx += dmean / count + 2.0 * centred * dvar / count
    return dx, dscale, dbias


def batch_norm_inference(
    x: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    *,
    epsilon: float,
) -> np.ndarray:
    """For each channel, y = scale (x - mean) / sqrt(var + epsilon) + bias."""
    x, mean, var, scale, bias = _float64(x, mean, var, scale, bias)
    return scale * (x - mean) / np.sqrt(var + epsilon) + bias


def batch_norm_inference_grad(
    x: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    scale: np.ndarray,
    dy: np.ndarray,
    *,
    epsilon: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The cotangents (dx, dmean, dvar, dscale, dbias).

    With r = 1 / sqrt(var + epsilon) and h = (x - mean) r:

        dx = dy scale r          dmean = -scale r sum dy
        dscale = sum dy h        dvar  = -scale r^2 / 2 sum dy h
        dbias = sum dy
    """
    x, mean, var, scale, dy = _float64(x, mean, var, scale, dy)
    r = 1.0 / np.sqrt(var + epsilon)
    dbias = _sum_to_channels(dy)
    dscale = _sum_to_channels(dy * (x - mean) * r)
    return (
        dy * scale * r,
        -scale * r * dbias,
        -0.5 * scale * r**2 * dscale,
        dscale,
        dbias,
    )


def dropout(x: np.ndarray, mask: np.ndarray, rate: float) -> np.ndarray:
    """Elementwise y = x mask / (1 - rate): the mean of y over the masks is x.

    The mask stands where the kernel has a key: 1 with probability 1 - rate, else 0.
    """
    return _float64(x) * _float64(mask) / (1.0 - rate)


def dropout_grad(dy: np.ndarray, mask: np.ndarray, rate: float) -> np.ndarray:
    """Elementwise dx = dy mask / (1 - rate): the map is linear and diagonal."""
    return dropout(dy, mask, rate)


def stochastic_depth(x: np.ndarray, mask: np.ndarray, rate: float) -> np.ndarray:
    """y[n] = x[n] mask[n] / (1 - rate): dropout of whole examples."""
    mask = _float64(mask)
    return dropout(x, mask.reshape(-1, *(1 for _ in np.shape(x)[1:])), rate)


def stochastic_depth_grad(dy: np.ndarray, mask: np.ndarray, rate: float) -> np.ndarray:
    """dx[n] = dy[n] mask[n] / (1 - rate)."""
    return stochastic_depth(dy, mask, rate)


def softmax_cross_entropy(
    logits: np.ndarray, labels: np.ndarray, *, label_smoothing: float = 0.0
) -> np.ndarray:
    """loss[n] = -sum over c of q[n, c] log p[n, c], with p the softmax of the logits.

    q is the label (one-hot if it is an integer), mixed with the uniform distribution:
    (1 - label_smoothing) label + label_smoothing / classes. A class with q = 0 adds
    nothing, not even where its p is 0.
    """
    logits = _float64(logits)
    targets = _targets(labels, logits.shape[-1], label_smoothing)
    terms = np.zeros(logits.shape)
    np.multiply(targets, _log_softmax(logits), out=terms, where=targets != 0)
    return -terms.sum(axis=-1)


def softmax_cross_entropy_grad(
    logits: np.ndarray,
    labels: np.ndarray,
    dloss: np.ndarray,
    *,
    label_smoothing: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The cotangents (dlogits, dlabels); integer labels have none: ignore theirs.

    log p[c] = logits[c] - log sum exp(logits), whose derivative by logits[k] is
    [c = k] - p[k], so that

        dlogits[n, k] = dloss[n] (p[n, k] sum_c q[n, c] - q[n, k])
        dlabels[n, c] = -dloss[n] (1 - label_smoothing) log p[n, c].
    """
    logits, dloss = _float64(logits, dloss)
    targets = _targets(labels, logits.shape[-1], label_smoothing)
    log_p = _log_softmax(logits)
    weight = targets.sum(axis=-1, keepdims=True)
    dlogits = dloss[..., None] * (np.exp(log_p) * weight - targets)
    return dlogits, -dloss[..., None] * (1.0 - label_smoothing) * log_p


def positions(sizes: Sequence[int]) -> list[Position]:
    """All index tuples of an array of these sizes, in row-major order."""
    return list(itertools.product(*map(range, sizes)))


def placements(window: Window) -> Iterator[tuple[Position, Position, Position]]:
    """Yields (o, t, p) for every tap t at every output position o, by equation (1).

    Taps that fall into the padding are left out; the order is row-major in (o, t).
    """
    for o in positions(window.output_sizes):
        for t in positions(window.sizes):
            p = tuple(
                place * stride + tap * step - low
                for place, stride, tap, step, (low, _) in zip(
                    o, window.strides, t, window.dilation, window.padding, strict=True
                )
            )
            if all(0 <= q < n for q, n in zip(p, window.input_sizes, strict=True)):
                yield o, t, p


def channel_runs(w: np.ndarray, groups: int) -> Iterator[tuple[slice, slice]]:
    """Yields, group by group, the slices of input and of output channels."""
    inputs, outputs = w.shape[-2], w.shape[-1] // groups
    for g in range(groups):
        yield (
            slice(g * inputs, (g + 1) * inputs),
            slice(g * outputs, (g + 1) * outputs),
        )


def _conv_window(input_shape, filter_shape, strides, padding, dilation) -> Window:
    return Window.resolve(
        tuple(input_shape)[1:-1],
        tuple(filter_shape)[:-2],
        strides=strides,
        padding=padding,
        dilation=dilation,
    )


def _pool_window(input_shape, window, strides, padding, dilation) -> Window:
    return Window.resolve(
        tuple(input_shape)[1:-1],
        window,
        strides=window if strides is None else strides,
        padding=padding,
        dilation=dilation,
    )


def _counts(window: Window, count_include_pad: bool) -> np.ndarray:
    """The divisors k[o] of average pooling, with an axis for the channels."""
    if count_include_pad:
        return np.full((*window.output_sizes, 1), float(math.prod(window.sizes)))
    counts = np.zeros((*window.output_sizes, 1))
    for o, _, _ in placements(window):
        counts[o] += 1.0
    return np.maximum(counts, 1.0)


def _sum_to_channels(values: np.ndarray) -> np.ndarray:
    return values.sum(axis=tuple(range(values.ndim - 1)))


def _targets(labels: np.ndarray, classes: int, label_smoothing: float) -> np.ndarray:
    labels = np.asarray(labels)
    if np.issubdtype(labels.dtype, np.integer):
        labels = labels[..., None] == np.arange(classes)
    return (1.0 - label_smoothing) * _float64(labels) + label_smoothing / classes


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _float64(*arrays: np.ndarray):
    converted = tuple(np.asarray(array, dtype=np.float64) for array in arrays)
    return converted if len(converted) > 1 else converted[0]
