"""The types that the layers' fields share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

Activation = Callable[[jax.Array], jax.Array]
"""An elementwise function, such as `cnn_jax.kernels.relu`."""

Dtype = Any
"""Anything that `jax.numpy.dtype` accepts."""

Initializer = Callable[[jax.Array, Sequence[int], Dtype], jax.Array]
"""`(key, shape, dtype) -> array`, as in `jax.nn.initializers`."""

ModuleFactory = Callable[..., nn.Module]
"""A module class, or a `functools.partial` of one that fixes some of its fields."""
