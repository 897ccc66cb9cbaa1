r"""Average pooling to a given size, and its gradient derived by hand.

Along one dimension of n inputs and m outputs, output i averages the inputs

    floor(i n / m), ..., ceil((i + 1) n / m) - 1,

which overlap unless m divides n, and repeat where m exceeds n. That is a fixed matrix
A (m, n) whose rows sum to one; the mean over a box is the mean over its sides, one
after the other, so with two dimensions and the matrices A and B

    y_pq = sum over i, j of A_pi B_qj x_ij,

linear in x. Its gradient is the transpose: dx_ij = sum over p, q of A_pi B_qj dy_pq.
Nothing is saved but shapes.

The nonzero entries of a row of A are contiguous, and so are those of a column: a cell
is a run of positions, and a position is in a run of cells. To read x a few times, as
often as the widest cell has positions, is quicker on a CPU than a product with A. On a
TPU the product is the faster where it makes fewer numbers of more.

Source: the geometry of PyTorch's `AdaptiveAvgPool`, which networks from AlexNet to VGG
put before their fully connected layers.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.geometry import per_dimension
from cnn_jax.kernels import autodiff
from cnn_jax.kernels.kernel import custom_vjp, kernel
from cnn_jax.kernels.operands import require_floating, widen
from cnn_jax.kernels.pool import global_avg_pool

# Wider runs are summed one by one: of two dimensions' reads, nested in one loop, a
# compiler would make their product.
_WIDE = 8


@kernel(autodiff.adaptive_avg_pool)
def adaptive_avg_pool(x: jax.Array, output_size: int | Sequence[int]) -> jax.Array:
    """Averages boxes that divide the input as evenly as they can.

    dx = A^T dy B for y = A x B^T, where row i of A averages the positions from
    floor(i n / m) to ceil((i + 1) n / m) - 1.

    Args:
      x: Input `(n, *spatial, c)`, one to three spatial dimensions, none empty.
      output_size: The output's spatial size: an integer, or one for each dimension.

    Returns:
      `(n, *output_size, c)` in x's dtype, summed in float32 or wider.

    Raises:
      ValueError: If x has no spatial position or is not floating-point, or the output
        size is not positive or of another rank.

    Where x is not finite, the cells that hold it are not. (On a TPU, which multiplies
    the other positions by zeros, nor are the cells beside them.)
    """
    x = jnp.asarray(x)
    if not 3 <= x.ndim <= 5 or 0 in x.shape[1:-1]:
        raise ValueError(
            f"adaptive_avg_pool: got x {x.shape}, expected (n, *spatial, c) with one "
            "to three spatial dimensions, none empty."
        )
    require_floating("adaptive_avg_pool", x=x)
    output_sizes = per_dimension(output_size, x.ndim - 2, "output_size")
    if set(output_sizes) == {1}:
        return jnp.expand_dims(global_avg_pool(x), tuple(range(1, x.ndim - 1)))
    return _adaptive_avg_pool(x, x.shape[1:-1], output_sizes)


@functools.partial(custom_vjp, nondiff_argnums=(1, 2))
def _adaptive_avg_pool(x, input_sizes, output_sizes):
    return _adaptive_avg_pool_fwd(x, input_sizes, output_sizes)[0]


def _adaptive_avg_pool_fwd(x, input_sizes, output_sizes):
    sizes = zip(input_sizes, output_sizes, strict=True)
    return _along_each_dimension([_averages(n, m) for n, m in sizes], x), None


def _adaptive_avg_pool_bwd(input_sizes, output_sizes, _, dy):
    sizes = zip(input_sizes, output_sizes, strict=True)
    return (_along_each_dimension([_averages(n, m).T for n, m in sizes], dy),)


_adaptive_avg_pool.defvjp(_adaptive_avg_pool_fwd, _adaptive_avg_pool_bwd)


def _averages(n: int, m: int) -> np.ndarray:
    """Returns the matrix `(m, n)` of one dimension."""
    rows, columns = np.arange(m)[:, None], np.arange(n)[None, :]
    first, end = rows * n // m, -(-(rows + 1) * n // m)
    inside = (first <= columns) & (columns < end)
    return inside / inside.sum(axis=1, keepdims=True)


def _along_each_dimension(matrices: Sequence[np.ndarray], x: jax.Array) -> jax.Array:
    y = widen(x)
    for axis, matrix in enumerate(matrices, start=1):
        if matrix.shape[0] == matrix.shape[1]:
            continue  # every position is its own mean
        sums = functools.partial(_sums_of_runs, matrix, axis)
        if matrix.shape[0] > matrix.shape[1]:
            y = sums(y)
        else:
            product = functools.partial(_product, matrix, axis)
            y = lax.platform_dependent(y, tpu=product, default=sums)
    return y.astype(x.dtype)


def _product(matrix: np.ndarray, axis: int, x: jax.Array) -> jax.Array:
    """Multiplies `x` along `axis` by the matrix."""
    product = jnp.tensordot(
        jnp.asarray(matrix, x.dtype),
        x,
        axes=(1, axis),
        # A matrix unit's default precision would round the shares.
        precision=lax.Precision.HIGHEST,
    )
    return jnp.moveaxis(product, 0, axis)


def _sums_of_runs(matrix: np.ndarray, axis: int, x: jax.Array) -> jax.Array:
    """Does the same where the nonzero entries of each row are a run."""
    inside = matrix > 0
    first: np.ndarray = inside.argmax(axis=1)
    widths: np.ndarray = inside.sum(axis=1)
    if widths.max() > _WIDE:
        sums = [
            jnp.sum(
                lax.slice_in_dim(x, start, start + width, axis=axis)
                * _along(row[start : start + width], axis, x),
                axis,
                keepdims=True,
            )
            for row, start, width in zip(matrix, first, widths, strict=True)
        ]
        return jnp.concatenate(sums, axis)
    total: Any = 0.0  # the first term makes it an array
    for step in range(widths.max()):
        position = first + np.minimum(step, widths - 1)
        read = jnp.take(x, position, axis, mode="clip", indices_are_sorted=True)
        term = read * _along(matrix[np.arange(len(matrix)), position], axis, x)
        if step >= widths.min():
            # Not by a share of 0, which would make NaN of an infinity.
            term = jnp.where(_along(step < widths, axis, term, bool), term, 0)
        total += term
    return total


def _along(vector: np.ndarray, axis: int, like: jax.Array, dtype=None) -> jax.Array:
    shape = [1] * like.ndim
    shape[axis] = -1
    return jnp.asarray(vector.reshape(shape), dtype or like.dtype)
