"""First-layer filters, features and their nearest neighbours."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from cnn_jax import trees

Metric = Literal["cosine", "euclidean"]
"""The distances that `nearest_neighbours` compares features by."""

METRICS: tuple[Metric, ...] = get_args(Metric)
"""All of them."""


def first_layer_filters(
    variables: Mapping[str, Any], *, path: str | None = None
) -> jax.Array:
    """Returns the filters that are applied to the image, as images themselves.

    Each is scaled by its largest entry so that 0 becomes the middle gray:
    1/2 + w / (2 max |w|). A filter of zeros is gray.

    Args:
      variables: A model's variables.
      path: The '/'-joined path of the kernel, such as `params/stem/conv/kernel`; None
        takes the only one with three input channels or, failing that, with one.

    Returns:
      float32 `(filters, h, w, channels)`, from 0 to 1.

    Raises:
      ValueError: If there is no such kernel, or more than one could be meant.
    """
    kernels = {
        name: leaf
        for name, leaf in trees.named_leaves(variables).items()
        if jnp.ndim(leaf) == 4
    }
    if path is None:
        path = _only_first_layer(kernels)
    if path not in kernels:
        raise ValueError(
            f"path: got {path!r}, expected a kernel (h, w, in, out), one of "
            f"{list(kernels)}."
        )
    filters = jnp.moveaxis(jnp.asarray(kernels[path], jnp.float32), -1, 0)
    largest = jnp.max(jnp.abs(filters), axis=(1, 2, 3), keepdims=True)
    return 0.5 + 0.5 * filters / jnp.where(largest > 0, largest, 1.0)


def nearest_neighbours(
    features: jax.Array,
    queries: jax.Array,
    k: int,
    *,
    metric: Metric = "cosine",
    batch_size: int = 256,
) -> tuple[jax.Array, jax.Array]:
    """Finds the nearest neighbours in feature space, by comparing with all features.

    Args:
      features: Floating-point numbers `(n, d)` to search among.
      queries: `(m, d)`.
      k: How many to find, at most n.
      metric: `"cosine"`, the angle between the vectors (one of zeros is at right angles
        to all), or `"euclidean"`, the distance, summed from differences: nothing
        cancels.
      batch_size: How many queries are compared at once; it bounds the memory, which is
        `batch_size` times n numbers.

    Returns:
      `(indices, scores)`, both `(m, k)`, the nearest first: int32 indices into
      `features`, and cosine similarities or distances in float32 or wider. Of equally
      near ones the lower index comes first.

    Raises:
      ValueError: If shapes or dtypes do not fit together, k is out of range or the
        metric is none of those.
    """
    _check_features(features, queries, k, metric, batch_size)
    dtype = jnp.promote_types(jnp.promote_types(features.dtype, queries.dtype), "f4")
    features, queries = features.astype(dtype), queries.astype(dtype)
    if metric == "cosine":
        features, queries = _unit(features), _unit(queries)
        similarity = functools.partial(_products, features)
    else:
        similarity = functools.partial(_negative_squares, features)

    def find(query):
        return jax.lax.top_k(similarity(query), k)

    # top_k puts the lower of two equal indices first.
    scores, indices = jax.lax.map(find, queries, batch_size=batch_size)
    if metric == "euclidean":
        scores = jnp.sqrt(-scores)
    return indices.astype(jnp.int32), scores


def _products(features, query):
    return jnp.matmul(features, query, precision=jax.lax.Precision.HIGHEST)


def _negative_squares(features, query):
    return -jnp.sum(jnp.square(features - query[None, :]), axis=-1)


def _unit(rows: jax.Array) -> jax.Array:
    # By the largest entry first: squares of large numbers would overflow.
    largest = jnp.max(jnp.abs(rows), axis=-1, keepdims=True, initial=0.0)
    rows = rows / jnp.where(largest > 0, largest, 1.0)
    length = jnp.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / jnp.where(length > 0, length, 1.0)


def _only_first_layer(kernels: Mapping[str, jax.Array]) -> str:
    for channels in (3, 1):
        found = [name for name, leaf in kernels.items() if leaf.shape[2] == channels]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(
                f"path: got None, but {len(found)} kernels have {channels} input "
                f"channels; expected one of {found}."
            )
    raise ValueError(
        "path: got None, but no kernel has three input channels or one; expected one "
        f"of {list(kernels)}."
    )


def _check_features(features, queries, k, metric, batch_size):
    if (
        features.ndim != 2
        or queries.ndim != 2
        or features.shape[1] != queries.shape[1]
        or not jnp.issubdtype(features.dtype, jnp.floating)
        or not jnp.issubdtype(queries.dtype, jnp.floating)
    ):
        raise ValueError(
            f"nearest_neighbours: got features {features.dtype}{list(features.shape)} "
            f"and queries {queries.dtype}{list(queries.shape)}, expected "
            "floating-point (n, d) and (m, d)."
        )
    if not 1 <= k <= len(features):
        raise ValueError(
            f"nearest_neighbours: got k {k}, expected 1 to {len(features)}, the number "
            "of features."
        )
    if metric not in METRICS:
        raise ValueError(
            f"nearest_neighbours: got metric {metric!r}, expected one of "
            f"{', '.join(METRICS)}."
        )
    if batch_size < 1:
        raise ValueError(
            f"nearest_neighbours: got batch_size {batch_size}, expected a positive "
            "integer."
        )
