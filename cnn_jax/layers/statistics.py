"""Scopes that set, from outside the model, what batch statistics are computed over.

A batch's distribution over devices is no property of a network, so its modules have no
field for it. The code that distributes it sets a scope around the call:

    with statistics_scope(axis_name="data"):
        model.apply(variables, images, train=True, mutable=["batch_stats"])

Every `BatchNorm` called inside reads the scope while it is traced. The scope is one of
JAX's user contexts, hence part of what its caches compare: no program traced under one
scope serves another.

Frozen statistics are set in the same way, since they belong to the training and not to
the network:

    with frozen_statistics():
        model.apply(variables, images, train=True)  # dropout acts, no statistic moves
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import jax


@dataclasses.dataclass(frozen=True)
class StatisticsScope:
    """The devices and groups that batch statistics are computed over.

    Attributes:
      axis_name: Mapped axes (of `shard_map` or `pmap`) over whose devices statistics
        are averaged; None for each device's own.
      axis_index_groups: Groups of indices along `axis_name` to average within.
      num_groups: The number of contiguous parts of the batch, as the function sees it,
        that have statistics of their own.
      frozen: Whether none are taken: running ones normalise, in training too.
    """

    axis_name: str | tuple[str, ...] | None = None
    axis_index_groups: Sequence[Sequence[int]] | None = None
    num_groups: int = 1
    frozen: bool = False


_DEFAULT = StatisticsScope()
_CONTEXT = jax.make_user_context(_DEFAULT)


def current_scope() -> StatisticsScope:
    """Returns the scope that `BatchNorm` follows at this point."""
    return _CONTEXT.value


@contextlib.contextmanager
def statistics_scope(
    axis_name: str | tuple[str, ...] | None = None,
    *,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    num_groups: int = 1,
) -> Iterator[None]:
    """Sets the scope of every `BatchNorm` called inside that has no axis of its own.

    Args:
      axis_name: Mapped axes (of `shard_map` or `pmap`) over whose devices statistics
        are averaged; None for each device's own. Not for `jit`, where a sharded batch
        is one batch.
      axis_index_groups: Groups of indices along `axis_name` to average within. Not
        under a `shard_map` that checks types; name a smaller axis there.
      num_groups: The number of contiguous parts of the batch that have statistics of
        their own ("ghost batch norm"); the running ones move towards their average.
        Under `jit` with a batch split over as many devices, each has its own.

    Raises:
      ValueError: If `num_groups` is less than 1, or more while axes are named.
    """
    if num_groups < 1 or (num_groups > 1 and axis_name is not None):
        raise ValueError(
            f"statistics_scope: got num_groups {num_groups} and axis_name "
            f"{axis_name!r}, expected a number of at least 1, and 1 with an axis."
        )
    groups = axis_index_groups and tuple(tuple(group) for group in axis_index_groups)
    frozen = current_scope().frozen
    with _CONTEXT(StatisticsScope(axis_name, groups, num_groups, frozen)):
        yield


@contextlib.contextmanager
def frozen_statistics() -> Iterator[None]:
    """Has every `BatchNorm` called inside normalise by its running statistics.

    They do so in training as well, and their running statistics stay what they are;
    nothing else of a network's training is changed. It holds inside any
    `statistics_scope`, whichever of the two is entered first.
    """
    with _CONTEXT(dataclasses.replace(current_scope(), frozen=True)):
        yield
