"""The layers of a network, with the choices that hold for all of them filled in."""

from __future__ import annotations

import dataclasses
import functools
from typing import Generic, Protocol, TypeVar, cast

import flax.linen as nn

from cnn_jax.layers.convolution import Conv
from cnn_jax.layers.linear import Dense
from cnn_jax.layers.space_to_depth import SpaceToDepthConv
from cnn_jax.layers.types import (
    Dtype,
    Dtypes,
    Initializer,
    KernelDtypes,
    ModuleFactory,
)

HE_NORMAL: Initializer = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""He's normal distribution: variance `2 / fan_in`, for layers that relu follows."""

NormT = TypeVar("NormT", bound=ModuleFactory | None, covariant=True)
"""`ModuleFactory`, or with None for networks whose layers need no normalisation."""


class Network(Protocol[NormT]):
    """The fields of a model that decide how its layers are made."""

    @property
    def norm(self) -> NormT:
        """Makes the normalisations, or None."""

    @property
    def dtype(self) -> Dtype | None:
        """The dtype of the computation."""

    @property
    def param_dtype(self) -> Dtype:
        """The dtype in which the parameters are stored."""


@dataclasses.dataclass(frozen=True)
class LayerFactories(Generic[NormT]):
    """The factories that a network makes its layers with.

    Attributes:
      conv: Makes `Conv`, with the network's dtypes and initializer.
      stem_conv: The same for the first convolution, which may be a `SpaceToDepthConv`.
      dense: Makes `Dense`, with the same dtypes and initializer.
      norm: Makes what the network's field `norm` makes, with the network's dtypes and
        `use_running_average`; None where that is.
      dtypes: The dtypes alone, for layers that start from another distribution.
    """

    conv: ModuleFactory
    stem_conv: ModuleFactory
    dense: ModuleFactory
    norm: NormT
    dtypes: Dtypes


def layer_factories(
    network: Network[NormT],
    *,
    train: bool,
    space_to_depth: bool = False,
    kernel_init: Initializer = HE_NORMAL,
) -> LayerFactories[NormT]:
    """Returns what makes a network's layers, each with the network's own choices.

    Args:
      network: The model, whose `dtype`, `param_dtype` and `norm` they get.
      train: Whether batches are normalised by their own statistics.
      space_to_depth: Whether `stem_conv` makes `SpaceToDepthConv`.
      kernel_init: The initializer of filters and matrices.
    """
    dtypes: Dtypes = {"dtype": network.dtype, "param_dtype": network.param_dtype}
    kernel: KernelDtypes = {"kernel_init": kernel_init, **dtypes}
    norm: ModuleFactory | None = network.norm
    if norm is not None:
        norm = functools.partial(norm, use_running_average=not train, **dtypes)
    return LayerFactories(
        conv=functools.partial(Conv, **kernel),
        stem_conv=functools.partial(
            SpaceToDepthConv if space_to_depth else Conv, **kernel
        ),
        dense=functools.partial(Dense, **kernel),
        # A type checker cannot see that it is None exactly where the network's is.
        norm=cast("NormT", norm),
        dtypes=dtypes,
    )
