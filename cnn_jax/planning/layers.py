"""Layers and passes of a network that the operations of a program belong to.

JAX names an operation by the scopes around it: `jit(f)/jvp(ResNet)/stem/conv/...` is of
the forward pass, `jit(f)/transpose(jvp(ResNet))/stem/conv/...` of the backward pass,
and what is outside of both is the update of parameters, statistics and metrics.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from cnn_jax.planning.hlo import Instruction

FORWARD, BACKWARD, UPDATE = "forward", "backward", "update"
PASSES = (FORWARD, BACKWARD, UPDATE)

LOSS, OPTIMIZER, WHOLE = "(loss)", "(update)", "(network)"
ARGUMENTS, UNNAMED = "(arguments)", "(unnamed)"
"""Names of what is in no layer: the loss; the update; the network around its layers;
moves of the step's arguments; and instructions to which the compiler gives no name."""

_RECOMPUTED = ("checkpoint", "rematted_computation", "remat")


@dataclasses.dataclass(frozen=True)
class Place:
    """A layer and a pass.

    Attributes:
      layer: The layer's path, '/'-joined, or one of the names above.
      part: One of `PASSES`.
    """

    layer: str
    part: str


def module_paths(model: Any, image_shape: Sequence[int]) -> frozenset[str]:
    """Returns the paths of a network's modules, those of the blocks included.

    Args:
      model: A linen module.
      image_shape: Height, width and channels of an image.
    """
    import jax
    import jax.numpy as jnp

    from cnn_jax.layers.tracing import trace_layers

    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    calls = trace_layers(model, images, train=False)
    return frozenset(call.path for call in calls if call.path)


def place_of(op_name: str, paths: Collection[str]) -> Place:
    """Returns where an operation belongs.

    Args:
      op_name: As `Instruction.op_name`.
      paths: The paths of the network's modules.
    """
    if not op_name:
        return Place(UNNAMED, UPDATE)
    # Of the names of one operation that the compiler made of several, the first counts.
    # (A fusion has but one, that of its last operation.)
    words = op_name.partition(";")[0].split("/")
    parts = [word for word in words if word not in _RECOMPUTED]
    for index, part in enumerate(parts):
        found = re.fullmatch(r"(transpose\()?jvp\((.*?)\)+", part)
        if found is None:
            continue
        which = BACKWARD if found[1] else FORWARD
        layer = _longest(parts[index + 1 :], paths)
        if layer is None:
            layer = WHOLE if found[2] else LOSS
        return Place(layer, which)
    # The name of an argument is its path in the state or the batch.
    return Place(OPTIMIZER if "jit(" in op_name else ARGUMENTS, UPDATE)


def place_all(
    instructions: Iterable[Instruction], paths: Collection[str]
) -> dict[str, Place]:
    """Returns where each instruction belongs, by its name."""
    known: dict[str, Place] = {}
    places = {}
    for each in instructions:
        if each.op_name not in known:
            known[each.op_name] = place_of(each.op_name, paths)
        places[each.name] = known[each.op_name]
    return places


def _longest(words: Sequence[str], paths: Collection[str]) -> str | None:
    """Returns the longest path of a module that the words begin with, if one does."""
    # What is recomputed has scopes of its own in front: `jvp(Net)`, `Net.run`.
    start = 0
    while start < len(words) and re.search(r"[.(]", words[start]):
        start += 1
    for end in range(len(words), start, -1):
        path = "/".join(words[start:end])
        if path in paths:
            return path
    return None
