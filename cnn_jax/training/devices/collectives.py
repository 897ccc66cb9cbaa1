"""Collectives: sums over devices that each hold a part of the batch, in one message.

For use inside `jax.shard_map` and `jax.pmap`, where a function sees one device's part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import trees
from cnn_jax.kernels.operands import cast_to_varying


def fused_mean(tree: Any, axes: tuple[str, ...], *, reduce_dtype: Any = None) -> Any:
    """Returns the mean of a tree over devices, by one all-reduce for each dtype.

    All leaves of a dtype are raveled into one buffer. The shares are divided before
    they are summed, so that no narrow dtype overflows.

    Args:
      tree: A tree of floating-point arrays, each device's own.
      axes: The mapped axes of the devices.
      reduce_dtype: The dtype in which the sum is sent and formed; None for the leaves'.

    Returns:
      The same tree on every device, in the leaves' dtypes.
    """
    leaves, structure = jax.tree.flatten(_copy(tree, axes))
    num_devices = jax.lax.axis_size(axes)
    means = list(leaves)
    for dtype in sorted({leaf.dtype for leaf in leaves}, key=str):
        indices = [index for index, leaf in enumerate(leaves) if leaf.dtype == dtype]
        flat = jnp.concatenate([leaves[index].ravel() for index in indices])
        flat = (flat / num_devices).astype(reduce_dtype or dtype)
        flat = jax.lax.psum(flat, axes).astype(dtype)
        ends = np.cumsum([leaves[index].size for index in indices])
        for index, part in zip(indices, jnp.split(flat, ends[:-1]), strict=True):
            means[index] = part.reshape(leaves[index].shape)
    return jax.tree.unflatten(structure, means)


def spread_over(
    axes: tuple[str, ...], *, reduce_dtype: Any = None
) -> Callable[[Any], Any]:
    """Returns the function that gives every device its copy of the parameters.

    It changes no value. Its transpose is the mean over the devices: the gradient of a
    device's mean loss through it is that of the whole batch's mean loss, the same on
    every device, and all of it comes by one `fused_mean`.

    Args:
      axes: The mapped axes of the devices.
      reduce_dtype: The dtype in which gradients are sent and summed.
    """

    def copy(params: Any) -> Any:
        return _copy(params, axes)

    def copy_forward(params: Any) -> tuple[Any, None]:
        return copy(params), None

    def copy_backward(_: None, gradients: Any) -> tuple[Any]:
        return (fused_mean(gradients, axes, reduce_dtype=reduce_dtype),)

    spread = jax.custom_vjp(copy)
    spread.defvjp(copy_forward, copy_backward)
    return spread


def differing_leaves(tree: Any) -> list[bool]:
    """Tells which leaves may differ between devices, by the types of `shard_map`."""
    return [
        bool(jax.typeof(leaf).manual_axis_type.varying)
        for leaf in jax.tree.leaves(tree)
    ]


def average_leaves(tree: Any, differing: Sequence[bool], axes: tuple[str, ...]) -> Any:
    """Averages those leaves that differ between devices, by one all-reduce.

    Args:
      tree: A tree of arrays.
      differing: For each leaf, whether it does.
      axes: The mapped axes of the devices.

    Returns:
      The same tree on every device.

    Raises:
      ValueError: Naming the leaves that differ but are no floating-point numbers.
    """
    names = list(trees.named_leaves(tree))
    leaves, structure = jax.tree.flatten(tree)
    own = [index for index, differs in enumerate(differing) if differs]
    unfit = [
        names[index]
        for index in own
        if not jnp.issubdtype(leaves[index].dtype, jnp.floating)
    ]
    if unfit:
        raise ValueError(
            f"step: got {unfit}, which differ between devices and have no mean; "
            "expected them to follow from the gradients and the state alone."
        )
    if own:
        means = fused_mean([leaves[index] for index in own], axes)
        for index, mean in zip(own, means, strict=True):
            leaves[index] = mean
    return jax.tree.unflatten(structure, leaves)


def _copy(tree: Any, axes: tuple[str, ...]) -> Any:
    """Marks all leaves as each device's own."""
    return jax.tree.map(lambda leaf: cast_to_varying(leaf, axes), tree)
