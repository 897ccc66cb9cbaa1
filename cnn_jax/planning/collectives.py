"""The messages between devices in an optimised program: what, how much, between whom.

Their seconds are estimates, by the formulas of rings on a torus (Austin et al. 2025,
"How to Scale Your Model", part 3): the larger of what the links' bandwidth and what the
number of hops takes.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from cnn_jax.chips import ICI_HOP_SECONDS
from cnn_jax.planning.hlo import Instruction, array_bytes

KINDS = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all"),
    *("ragged-all-to-all", "collective-broadcast", "collective-permute"),
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """Messages of one kind along the same axes of the mesh.

    Attributes:
      kind: One of `KINDS`.
      axes: The axes of the mesh, joined by `+`.
      group_size: How many devices exchange with each other.
      count: How many such instructions a step runs.
      payload_bytes: What goes into them on one device.
      sent_bytes: What a device sends, by a ring.
      seconds: An estimate; None where no bandwidth is known.
    """

    kind: str
    axes: str
    group_size: int
    count: int
    payload_bytes: int
    sent_bytes: int
    seconds: float | None


def find_collectives(
    instructions: Sequence[Instruction],
    mesh: Mapping[str, int],
    *,
    bandwidth: float | None,
    shape: Sequence[int] = (),
) -> list[Collective]:
    """Returns the collectives of a program, those with the most bytes first.

    Args:
      instructions: Those of the program.
      mesh: The mesh: name of an axis -> number of devices along it.
      bandwidth: Bytes per second that a device can send; None if unknown.
      shape: Chips along each dimension of the slice.
    """
    types = {each.name: each.type for each in instructions}
    found: dict[tuple[str, str, int], list[int]] = {}
    for each in instructions:
        kind = each.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        payload = sum(array_bytes(types.get(name, "")) for name in each.operands)
        group = first_group(each.attributes, math.prod(mesh.values()))
        axes = axes_of(group, mesh)
        key = (kind, axes, len(group))
        # Messages between one device are none.
        if len(group) > 1:
            found.setdefault(key, []).append(payload)
    collectives = [
        Collective(
            *(kind, axes, size, len(payloads), sum(payloads)),
            sent_bytes=sum(_sent(kind, payload, size) for payload in payloads),
            seconds=None
            if bandwidth is None
            else sum(
                max(
                    _sent(kind, payload, size) / bandwidth,
                    _hops(kind, size, math.prod(mesh.values()), shape)
                    * ICI_HOP_SECONDS,
                )
                for payload in payloads
            ),
        )
        for (kind, axes, size), payloads in found.items()
    ]
    return sorted(collectives, key=lambda each: -each.payload_bytes)


def count_collectives(text: str) -> dict[str, int]:
    """Returns how many collectives of each kind stand in a program's text.

    An asynchronous one is a start and a done; the start counts.
    """
    return {kind: len(re.findall(rf"= .* {kind}(?:-start)?\(", text)) for kind in KINDS}


def first_group(attributes: str, num_devices: int) -> tuple[int, ...]:
    """Returns the devices of the first group that a collective exchanges within.

    Args:
      attributes: As `Instruction.attributes`.
      num_devices: How many devices run the program.
    """
    if pairs := re.search(r"source_target_pairs=\{\{([\d,{}]*)\}\}", attributes):
        return tuple(map(int, pairs[1].split("},{")[0].split(",")))
    named = re.search(r"replica_groups=mesh\[([^\]]*)\] *\{([^}]*)\}", attributes)
    if named:
        sizes = {
            axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", named[1])
        }
        chosen = set(re.findall(r"'(\w+)'", named[2]))
        ids = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
        place = tuple(slice(None) if axis in chosen else 0 for axis in sizes)
        return tuple(int(number) for number in np.ravel(ids[place]))
    tiled = re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes
    )
    if tiled:
        ids = np.arange(num_devices).reshape(_numbers(tiled[2]))
        if tiled[3]:
            ids = ids.transpose(_numbers(tiled[3]))
        return tuple(int(number) for number in ids.reshape(_numbers(tiled[1]))[0])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return _numbers(listed[1])
    return tuple(range(num_devices))


def axes_of(group: Sequence[int], mesh: Mapping[str, int]) -> str:
    """Returns the axes of the mesh along which the devices of a group differ.

    Args:
      group: Devices by their place in the mesh.
      mesh: The mesh: name of an axis -> number of devices along it.
    """
    places = np.unravel_index(np.asarray(group), tuple(mesh.values()))
    differing = [
        axis
        for axis, place in zip(mesh, places, strict=True)
        if len(set(place.tolist())) > 1
    ]
    return "+".join(differing) or "-"


def total_seconds(collectives: Iterable[Collective]) -> float | None:
    """Returns the seconds of all; None if some are not known."""
    seconds = [each.seconds for each in collectives]
    known = [each for each in seconds if each is not None]
    return sum(known) if len(known) == len(seconds) else None


def _sent(kind: str, payload: int, size: int) -> int:
    """Returns the bytes that a device sends."""
    if kind == "all-reduce":
        return 2 * payload * (size - 1) // size
    if kind == "all-gather":
        return payload * (size - 1)
    if kind in ("collective-permute", "collective-broadcast"):
        return payload
    return payload * (size - 1) // size


def _hops(kind: str, size: int, num_devices: int, shape: Sequence[int]) -> int:
    """Returns from how many neighbours to neighbours a message goes, one by one."""
    if kind == "collective-permute":
        return 1
    sides = shape if size == num_devices and shape else (size,)
    once = sum(math.ceil(side / 2) for side in sides if side > 1)
    return 2 * once if kind == "all-reduce" else once


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))
