"""The memory that a split takes as arrays, before it is decoded."""

from __future__ import annotations

import math

from cnn_jax import memory


def check_memory(
    name: str, split: str, num_examples: int, image_shape: tuple[int, int, int]
) -> None:
    """Checks that a split's images fit into the memory of this process's host.

    Args:
      name: The dataset's name.
      split: The split's.
      num_examples: How many images it has.
      image_shape: `(height, width, channels)` of each, as uint8.

    Raises:
      ValueError: If they do not.
    """
    height, width, channels = image_shape
    pixels = num_examples * math.prod(image_shape)
    memory.require(
        # Once one by one, and once as one array.
        {"decoded": pixels, "in one array": pixels},
        what=f"the {num_examples:,} images of {name!r}, split {split!r}, of {height:,} "
        f"x {width:,} x {channels}",
        advice="make image_size smaller, or stream them (data_path 'stream')",
        available=memory.available_bytes(),
    )
