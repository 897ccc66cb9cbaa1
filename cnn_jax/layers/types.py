"""The types that the layers' fields share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

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


class Dtypes(TypedDict):
    """The dtypes of a network, as each of its layers takes them."""

    dtype: Dtype | None
    param_dtype: Dtype


class KernelDtypes(Dtypes):
    """Those, and the filters' initializer."""

    kernel_init: Initializer


class ConvAndNorm(TypedDict):
    """The factories that a block passes to the blocks inside."""

    conv: ModuleFactory
    norm: ModuleFactory


class NormAndActivation(TypedDict):
    """Arguments that a network passes to all of its blocks, without the convolution."""

    norm: ModuleFactory
    activation: Activation


class ConvNormAndActivation(NormAndActivation):
    """Arguments that a network passes to all of its blocks."""

    conv: ModuleFactory
