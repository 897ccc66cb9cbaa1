"""Prefetching: batches of the host put on the devices ahead of their use."""

from __future__ import annotations

import collections
from collections.abc import Generator, Mapping

import jax
import numpy as np
from jax.sharding import Sharding


def device_prefetch(
    batches: Generator[Mapping[str, np.ndarray]],
    sharding: Sharding | Mapping[str, Sharding],
    *,
    size: int = 2,
) -> Generator[dict[str, jax.Array]]:
    """Puts this process's blocks together with the others' into arrays on the devices.

    Transfers are asynchronous, so with a `size` of 2 the next batch is transferred
    while a step uses this one. An error of the host is raised in order, after
    the batches that were put on the devices before it.

    Args:
      batches: This process's blocks; closed when the result is.
      sharding: The arrays' sharding: their first dimension over the processes, as the
        blocks are. One for all, or one for each name.
      size: The number of batches on the devices or in transfer at a time.

    Returns:
      The global arrays, in the batches' order.

    Raises:
      ValueError: If `size` is not positive.
    """
    if size < 1:
        raise ValueError(f"size: got {size}, expected at least 1.")

    def put(batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        return {
            name: jax.make_array_from_process_local_data(
                sharding[name] if isinstance(sharding, Mapping) else sharding, array
            )
            for name, array in batch.items()
        }

    def prefetch() -> Generator[dict[str, jax.Array]]:
        ahead: collections.deque[dict[str, jax.Array]] = collections.deque()
        try:
            for batch in batches:
                ahead.append(put(batch))
                if len(ahead) == size:
                    yield ahead.popleft()
        except Exception:
            yield from ahead
            raise
        else:
            yield from ahead
        finally:
            batches.close()

    return prefetch()
