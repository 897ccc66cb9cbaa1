"""What every model checks of its input and promises of its output."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cnn_jax.geometry import layout_hint, looks_channels_first

Output = jax.Array | tuple[jax.Array, dict[str, jax.Array]]
"""The logits, or with `endpoints=True` the logits and the named features."""

_MOST_IMAGE_CHANNELS = 4
