r"""The mean and biased variance of each channel, in the form that suits a platform.

Two passes, mean(x) and then mean((x - mean)^2), lose nothing, but the second depends on
the first, between devices too, and reads x again where a matrix unit could have formed
both sums while it wrote x. One pass about a shift s, with d = x - s, needs

    mean = s + E[d],    var = E[d^2] - E[d]^2,

which hold for every s: (d - E[d]) is (x - mean), whatever was subtracted from both. So
no derivative by s exists, and those by x are the ones of the two passes,

    dmean = E[dx],    dvar = E[2 (x - mean) dx].

In floating point the difference cancels: where the mean of d is k deviations, var
keeps the digits of E[d^2] less those of k^2. With s = 0 that is the error of the plain
E[x^2] - E[x]^2; with s near the mean little is lost. What is lost then comes from the
last few roundings of the two sums, for those of their parts are many and average out.
So for float32 the sums are formed block by block, each block's variance is taken from
its own, and blocks are merged without rounding: with E[d]_b = h + l, where h has a
third of a number's digits, h and (the leading third of) h^2 are added exactly, and

    var = E[d^2]_b - E[d]_b^2  +  E[h^2 + l (2 h + l)] - E[h + l]^2,

the first two averaged over blocks. With s within 10 deviations of the mean the variance
of float32 channels has a relative error of at most 1e-5. Half-precision x, of 8 or 11
digits, has lost more than that before it comes here: there the sums are plain.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.kernels.operands import widen

AxisName = str | tuple[str, ...] | None
Groups = tuple[tuple[int, ...], ...] | None

_LEAST_BLOCKS = 128
"""With fewer, the roundings of the blocks' own sums would not average out."""


def _batch_statistics(
    x: jax.Array,
    shift: jax.Array | None,
    axis_name: AxisName,
    groups: Groups,
    target: str,
) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and the biased variance over all axes of `x` but the last.

    Args:
      x: `(n, ..., c)`, with at least one entry a channel.
      shift: `(c,)` in float32 or wider, near the means, the same on all devices that
        share statistics; None for zeros.
      axis_name: Mapped axes over whose devices the statistics run, or None.
      groups: Groups of devices along `axis_name`, as in `jax.lax.psum`.
      target: The platform, as `current_target()` names it: two passes on a CPU.

    Returns:
      `(c,)` each, in float32 or wider; the variance is never negative.
    """
    form = two_passes if target == "cpu" else one_pass
    return form(x, shift, axis_name, groups)


batch_statistics: jax.custom_jvp[tuple[jax.Array, jax.Array]] = jax.custom_jvp(
    _batch_statistics, nondiff_argnums=(2, 3, 4)
)


@batch_statistics.defjvp
def _batch_statistics_jvp(axis_name, groups, target, primals, tangents):
    (x, shift), (dx, _) = primals, tangents
    mean, var = batch_statistics(x, shift, axis_name, groups, target)
    axes, dx = tuple(range(x.ndim - 1)), widen(dx)
    centred = widen(x) - _along_channels(mean, x)
    dmean = jnp.mean(dx, axes)
    dvar = jnp.mean(2 * centred * dx, axes)
    return (mean, var), (
        mean_over_devices(dmean, axis_name, groups),
        mean_over_devices(dvar, axis_name, groups),
    )


def two_passes(
    x: jax.Array,
    shift: jax.Array | None,
    axis_name: AxisName,
    groups: Groups,
) -> tuple[jax.Array, jax.Array]:
    """Averages x, and then the squares of what remains; needs no shift."""
    del shift
    wide, axes = widen(x), tuple(range(x.ndim - 1))
    local_mean = jnp.mean(wide, axes)
    local_var = jnp.mean(jnp.square(wide - _along_channels(local_mean, x)), axes)
    if axis_name is None:
        return local_mean, local_var
    mean = mean_over_devices(local_mean, axis_name, groups)
    var = local_var + jnp.square(local_mean - mean)
    return mean, mean_over_devices(var, axis_name, groups)


def one_pass(
    x: jax.Array,
    shift: jax.Array | None,
    axis_name: AxisName,
    groups: Groups,
) -> tuple[jax.Array, jax.Array]:
    """Averages x - shift and its square in one pass, and devices in one message."""
    d = widen(x)
    if shift is not None:
        d = d - _along_channels(shift, d)
    form = _moments if jnp.finfo(x.dtype).bits < 32 else _exact_moments
    mean, var = form(d, axis_name, groups)
    return mean if shift is None else shift + mean, jnp.maximum(var, 0)


def _moments(d, axis_name, groups):
    axes = tuple(range(d.ndim - 1))
    mean, square = jnp.mean(d, axes), jnp.mean(jnp.square(d), axes)
    if axis_name is not None:
        both = mean_over_devices(jnp.stack([mean, square]), axis_name, groups)
        mean, square = both[0], both[1]
    return mean, square - jnp.square(mean)


def _exact_moments(d, axis_name, groups):
    """Merges the moments of blocks; see the module."""
    leading = next(
        (k for k in range(1, d.ndim - 1) if math.prod(d.shape[:k]) >= _LEAST_BLOCKS),
        d.ndim - 1,
    )
    count, size = math.prod(d.shape[:leading]), math.prod(d.shape[leading:-1])
    size, unit = _in_units(size)
    inner = tuple(range(leading, d.ndim - 1))
    mean, var = d, 0.0
    if inner:
        # Times `size` and its square. A division would be a product with a rounded
        # reciprocal, in all blocks the same.
        mean = jnp.sum(d, inner) / unit
        var = size * (jnp.sum(jnp.square(d), inner) / unit) - jnp.square(mean)
    high, low = _split(mean, 3)
    square = jnp.square(high)
    leading_square, _ = _split(square + var, 3)
    rest = (square - leading_square) + (low * (2 * high + low) + var)
    sums = jnp.sum(
        jnp.stack([high, low, leading_square, rest]), tuple(range(1, leading + 1))
    )
    if axis_name is not None:
        sums = lax.psum(sums, axis_name, axis_index_groups=groups)
        count *= lax.psum(1, axis_name, axis_index_groups=groups)
    count, unit = _in_units(count)
    mean, var = _merged(sums / unit, count)
    return mean / (count * size), var / (count * size) ** 2


def _merged(sums, count):
    """Returns the blocks' mean times `count` and their variance times its square.

    With h and q the sums of the first and third row, exact, and count n, all in two
    halves of their digits, n q - h^2 is formed from exact products.
    """
    high, low, square, rest = sums
    (h, dh), (q, dq) = _split(high, 2), _split(square, 2)
    half = 2.0 ** ((jnp.finfo(sums.dtype).nmant + 1) // 2)
    n = round(count * half) / half
    dn = count - n
    var = (n * q - h * h) + ((n * dq + dn * q - 2 * h * dh) + (dn * dq - dh * dh))
    return high + low, var + (count * rest - low * (2 * high + low))


def _in_units(count):
    """Returns a count in units of the next power of two, and that unit.

    Powers of two lose no digits, and sums of at most one unit no range.
    """
    unit = 2.0 ** math.ceil(math.log2(count))
    return count / unit, unit


def _split(value, parts):
    """Returns the leading one of `parts` equal parts of the digits, and the rest."""
    info = jnp.finfo(value.dtype)
    high = lax.reduce_precision(value, info.nexp, (info.nmant + 1) // parts - 1)
    # An infinity is all in the first.
    return high, jnp.where(high == value, 0, value - high)


def mean_over_devices(
    value: jax.Array,
    axis_name: AxisName,
    groups: Groups,
) -> jax.Array:
    """Averages a value over mapped axes, or groups of one; None leaves it as it is."""
    if axis_name is None:
        return value
    return lax.pmean(value, axis_name, axis_index_groups=groups)


def _along_channels(vector, x):
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))
