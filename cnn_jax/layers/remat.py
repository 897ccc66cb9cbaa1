"""Rematerialization: recomputing a block's activations in the backward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

from cnn_jax.layers.types import ModuleFactory


def rematerialized(make: ModuleFactory) -> ModuleFactory:
    """Returns a factory of the same modules under `jax.checkpoint`.

    Their parameters and results are unchanged. The backward pass keeps only what goes
    into such a module and runs it again: memory falls from all activations to those
    between blocks, for about a third more time.

    Args:
      make: A module class, or a `functools.partial` of one.
    """
    if isinstance(make, functools.partial):
        return functools.partial(nn.remat(make.func), *make.args, **make.keywords)
    return nn.remat(make)


def apply_stage(
    owner: nn.Module,
    layers: Sequence[nn.Module],
    end: Callable[[jax.Array], jax.Array] | None,
    x: jax.Array,
    *,
    remat: bool,
) -> jax.Array:
    """Returns `end(layers[-1](... layers[0](x)))`, for networks that have no blocks.

    The layers stay the owner's own submodules, whether or not the backward pass
    recomputes them.

    Args:
      owner: The module that made the layers and calls this.
      layers: Applied one after another.
      end: A function without parameters that closes the stage, such as a pool, or None.
      x: What goes into the first layer.
      remat: Whether the backward pass keeps `x` alone and runs the stage again.
    """

    # Flax lifts a transformation over a module, which the first argument must be.
    def run(owner: nn.Module, layers: Sequence[nn.Module], x: jax.Array) -> jax.Array:
        del owner
        for layer in layers:
            x = layer(x)
        return x if end is None else end(x)

    return (nn.remat(run) if remat else run)(owner, list(layers), x)
